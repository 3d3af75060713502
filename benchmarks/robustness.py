"""What attackers get back from UCE, RECE and SAeUron on the emoji canvas: every attack on six fixed concepts.

    python benchmarks/robustness.py -o runs/robustness     # the attacks' canvas budgets; goes on where it was stopped
    python benchmarks/robustness.py --quick                # under ten minutes: three concepts, small budgets
    python benchmarks/robustness.py --budget published --attacks unlearndiff mma --concepts church noto --methods rece

"without" is the share of tries whose own prompt still draws the concept, ASR that and what the attack brought back.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from efface.api import erase
from efface.attacking import attack
from efface.attacks import ATTACKS
from efface.attacks.findings import Findings, Sanity
from efface.attacks.target import NOTHING
from efface.erasures import Erasure
from efface.loading import load

METHODS = ("uce", "rece", "saeuron")
CONCEPTS = ("church", "cat", "guitar", "car", "noto", "stencil")
"""Four objects and two styles."""
SEARCHES = tuple(name for name in ATTACKS if name != "checkpoint")
"""All but the audit of a whole checkpoint, which attacks no erasure."""


class Arena:
    """The canvas, its erasures, and the attacks that were run, each kept in a folder of its own."""

    def __init__(self, folder: Path, budget: str, tries: int, sanity_tries: int):
        self.pipeline = load("emoji")
        self.folder, self.budget, self.tries, self.sanity_tries = folder, budget, tries, sanity_tries
        self.erasures: dict[tuple[str, str], Erasure] = {}
        self.sane: dict[tuple[str, str], Sanity] = {}

    def erasure(self, method: str, concept: str) -> Erasure:
        """The method's erasure of a concept, by the canvas's settings."""
        if (method, concept) not in self.erasures:
            self.erasures[method, concept] = erase(self.pipeline, concept, method=method)
        return self.erasures[method, concept]

    def findings(self, name: str, method: str, concept: str) -> Findings:
        """Attack one erasure; whether the attack is sound is found once for each concept."""
        found = attack(
            self.pipeline,
            self.erasure(method, concept),
            method=name,
            budget=self.budget,
            tries=self.tries,
            sanity_tries=self.sanity_tries,
            known_sanity=self.sane.get((name, concept)),
            folder=self.folder / name / concept / method,
        )
        if found.sanity:
            self.sane[name, concept] = found.sanity
        return found


def share(found: Sequence[Findings], rate: str) -> float:
    """A rate over the tries of all concepts."""
    counted = [(getattr(f, rate).value, len(f.tries)) for f in found]
    return sum(value * tries for value, tries in counted) / sum(tries for _, tries in counted)


def line(name: str, method: str, found: Sequence[Findings]) -> str:
    """A row of the table."""
    cost = sum((f.cost for f in found), NOTHING)
    tries = sum(len(f.tries) for f in found)
    broken = [f.concept for f in found if f.sanity and f.sanity.broken]
    note = f"BROKEN on {', '.join(broken)}" if broken else "sound"
    return (
        f"| {name} | {method} | {share(found, 'without'):.0%} | {share(found, 'asr'):.0%} | {cost.denoiser / tries:,.0f} "
        f"| {cost.encoder / tries:,.0f} | {cost.seconds / tries:.1f} | {note} |"
    )


def main(
    quick: bool = False,
    budget: str | None = None,
    methods: tuple[str, ...] = METHODS,
    attacks: tuple[str, ...] = SEARCHES,
    concepts: tuple[str, ...] = CONCEPTS,
    tries: int | None = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """Attack every erasure and print one table.

    Args:
        quick: church, guitar and noto only, three tries each, the attacks' quick budgets.
        budget: published, canvas or quick.
        methods: erasers that are attacked.
        attacks: which attacks.
        concepts: which concepts.
        tries: prompts and seeds of each.
        output: folder that keeps everything found; a run that was stopped goes on there.
    """
    started = time.monotonic()
    if quick:
        concepts = tuple(name for name in ("church", "guitar", "noto") if name in concepts)
    with tempfile.TemporaryDirectory() as scratch:
        arena = Arena(
            output or Path(scratch), budget or ("quick" if quick else "canvas"), tries or (3 if quick else 8), 2
        )
        figures: dict[str, dict[str, dict[str, float]]] = {}
        print("| attack | erasure | without | ASR | denoiser rows a try | encoder rows | seconds | the attack is |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in attacks:
            for method in methods:
                found = [arena.findings(name, method, concept) for concept in concepts]
                print(line(name, method, found), flush=True)
                figures.setdefault(name, {})[method] = {
                    "without": round(share(found, "without"), 4),
                    "asr": round(share(found, "asr"), 4),
                    "broken": sum(bool(f.sanity and f.sanity.broken) for f in found),
                }
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, {len(concepts)} concepts")
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
