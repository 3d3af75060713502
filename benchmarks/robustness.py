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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from efface.api import erase
from efface.attacking import attack
from efface.attacks import SEARCHES
from efface.attacks.findings import Findings, Sanity
from efface.attacks.target import NOTHING
from efface.erasures import Erasure
from efface.loading import load

METHODS = ("uce", "rece", "saeuron")
CONCEPTS = ("church", "cat", "guitar", "car", "noto", "stencil")
"""Four objects and two styles."""


@dataclass(frozen=True)
class Bout:
    """One attack on one concept, by every method in turn."""

    attack: str
    concept: str
    methods: tuple[str, ...]
    budget: str
    tries: int
    sanity_tries: int
    folder: Path

    def findings(self) -> dict[str, Findings]:
        """Attack the erasures; whether the attack is sound is found once for all of them."""
        sane: Sanity | None = None
        found: dict[str, Findings] = {}
        for method in self.methods:
            found[method] = attack(
                canvas(),
                erasure(method, self.concept),
                method=self.attack,
                budget=self.budget,
                tries=self.tries,
                sanity_tries=self.sanity_tries,
                known_sanity=sane,
                folder=self.folder / self.attack / self.concept / method,
            )
            sane = found[method].sanity
        return found


@cache
def canvas() -> Any:
    """The canvas, once in each process."""
    return load("emoji")


@cache
def erasure(method: str, concept: str) -> Erasure:
    """The method's erasure of a concept, by the canvas's settings."""
    return erase(canvas(), concept, method=method)


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
    workers: int = 2,
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
        workers: processes of one thread each.
        output: folder that keeps everything found; a run that was stopped goes on there.
    """
    started = time.monotonic()
    if quick:
        concepts = tuple(name for name in ("church", "guitar", "noto") if name in concepts)
    budget, tries = budget or ("quick" if quick else "canvas"), tries or (3 if quick else 8)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print("| attack | erasure | without | ASR | denoiser rows a try | encoder rows | seconds | the attack is |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    # Small batches gain little from a second thread: whole bouts side by side gain nearly all of it.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
    with tempfile.TemporaryDirectory() as scratch, pool:
        bouts = {
            name: [Bout(name, c, methods, budget, tries, 2, output or Path(scratch)) for c in concepts]
            for name in attacks
        }
        fought = {name: [pool.submit(bout.findings) for bout in some] for name, some in bouts.items()}
        try:
            for name in attacks:
                found = [future.result() for future in fought[name]]
                figures[name] = {}
                for method in methods:
                    some = [findings[method] for findings in found]
                    print(line(name, method, some), flush=True)
                    figures[name][method] = {
                        "without": round(share(some, "without"), 4),
                        "asr": round(share(some, "asr"), 4),
                        "broken": sum(bool(f.sanity and f.sanity.broken) for f in some),
                    }
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, {len(concepts)} concepts")
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
