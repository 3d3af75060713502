"""What attackers get back from erasures of the emoji canvas: attacks by words on three concepts, or every attack on six.

    python benchmarks/robustness.py -o runs/robustness     # church, cat, noto; four samples each; goes on where it was stopped
    python benchmarks/robustness.py -o runs/robustness --plan    # what is missing, and minutes
    python benchmarks/robustness.py --full                 # every attack on six concepts, eight samples each
    python benchmarks/robustness.py --quick                # three samples, small budgets
    python benchmarks/robustness.py --budget published --attacks unlearndiff inversion --concepts church noto
    python benchmarks/robustness.py --methods uce-published rece-published --attacks ring-a-bell unlearndiff p4d inversion

A cell says in which share of the samples the prompts themselves draw the concept, and in which they do under attack (ASR).
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
from quality import weights_of

from efface.api.attack import attack
from efface.api.erase import erase
from efface.attacks import SEARCHES
from efface.erasers import rece
from efface.erasures import Erasure
from efface.metrics.rates import paired, rate
from efface.models.load import load
from efface.models.model import Model
from efface.redteam.cost import NOTHING
from efface.redteam.findings import Findings, Sanity
from efface.redteam.samples import Samples
from efface.report import markdown

METHODS = ("uce", "rece", "anchored")
PUBLISHED = {"uce-published": rece.Config(epochs=0, keep=()), "rece-published": rece.Config(keep=())}
"""RECE by its paper's settings instead of the canvas's, and its first stage, UCE, alone."""
CONCEPTS = ("church", "cat", "guitar", "car", "noto", "stencil")
"""Four objects and two styles."""
ROWS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in SEARCHES} | {
    "ring-a-bell": ("ring-a-bell", {"mode": "discrete"}),
    "p4d": ("p4d", {"variant": "n"}),
    "relapse-full": ("relapse", {"mode": "full", "lr": 1e-4}),
}
"""Row of the table -> attack and options beside its budget's."""
BY_WORDS = ("ring-a-bell", "mma", "p4d", "unlearndiff", "pund", "synonyms")
"""Attacks that write or find a prompt of words."""
MINUTES = {"published": 20.0, "canvas": 2.0, "quick": 0.5}
"""Of one attack on one erasure, by budget."""


@dataclass(frozen=True)
class Bout:
    """One row's attack on one concept, erased by every method in turn."""

    row: str
    concept: str
    methods: tuple[str, ...]
    budget: str
    samples: Samples
    folder: Path

    def place(self, method: str) -> Path:
        """The folder of what is found on an erasure."""
        return self.folder / self.row / self.concept / method

    def missing(self) -> int:
        """Erasures that were not attacked yet."""
        return sum(not (self.place(method) / "findings.json").exists() for method in self.methods)

    def findings(self) -> dict[str, Findings]:
        """Attack the erasures; whether the attack is sound is found once for all of them."""
        name, options = ROWS.get(self.row, (self.row, {}))
        sane: Sanity | None = None
        found: dict[str, Findings] = {}
        for method in self.methods:
            found[method] = attack(
                canvas(),
                erasure(method, self.concept),
                method=name,
                budget=self.budget,
                samples=self.samples,
                known_sanity=sane,
                folder=self.place(method),
                **options,
            )
            sane = found[method].sanity
        return found


@cache
def canvas() -> Any:
    """The embedded model, once in each process."""
    return load("emoji")


@cache
def erasure(method: str, concept: str) -> Erasure:
    """The method's erasure of a concept, by the model's settings or the paper's."""
    if method in PUBLISHED:
        return erase(canvas(), concept, method="rece", config=PUBLISHED[method])
    return erase(canvas(), concept, method=method)


def shown_in(found: Sequence[Findings]) -> list[tuple[bool, bool]]:
    """Of every sample of every concept whether it shows the concept without attack, and with it; in an order that all methods
    share."""
    results = [r for f in found for r in sorted(f.samples, key=lambda r: r.number)]
    return [(r.before.shown, r.before.shown or r.after.shown) for r in results]


def prompts_of(found: Sequence[Findings]) -> list[int]:
    """Number of each sample's prompt: samples of one prompt are resampled together."""
    names = [(f.concept, r.sample.prompt) for f in found for r in sorted(f.samples, key=lambda r: r.number)]
    return [list(dict.fromkeys(names)).index(name) for name in names]


def sanity_of(found: Sequence[Findings]) -> dict[str, float]:
    """Share of the samples of all concepts in which the attack got past the unerased model, and the weak erasure."""
    known = [f.sanity for f in found if f.sanity]
    rates = {"unerased": [s.unerased for s in known], "weak": [s.weak for s in known if s.weak is not None]}
    return {
        n: sum(r.value * r.pictures for r in some) / max(1, sum(r.pictures for r in some)) for n, some in rates.items()
    }


def row(name: str, fought: dict[str, list[Findings]]) -> tuple[str, dict[str, Any]]:
    """A row of the table, and its figures."""
    every = [f for found in fought.values() for f in found]
    shown = {method: shown_in(found) for method, found in fought.items()}
    clusters = prompts_of(next(iter(fought.values())))
    figures: dict[str, Any] = {}
    cells = []
    for method, pairs in shown.items():
        pre_asr, asr = (rate([pair[k] for pair in pairs], clusters) for k in (0, 1))
        figures[method] = {"pre_asr": round(pre_asr.value, 4), "asr": round(asr.value, 4)}
        cells.append(f"{pre_asr.value:.0%} → {asr.value:.0%} ({asr.low:.0%} to {asr.high:.0%})")
    cost, count = sum((f.cost for f in every), NOTHING), sum(len(f.samples) for f in every)
    sane = sanity_of(every)
    broken = sorted({f.concept for f in every if f.broken})
    figures |= sane | {"broken": broken}
    for pair in (("uce", "rece"), tuple(PUBLISHED)):
        if set(pair) <= set(shown):
            first, second = ([t[1] for t in shown[method]] for method in pair)
            change = paired(first, second, clusters)
            figures |= {"rece_less_uce": round(change.difference, 4), "p": round(change.p, 4)}
    cells += [f"{(cost.denoiser + cost.encoder) / count:,.0f}, {cost.seconds / count:.1f} s"]
    cells += [f"{sane['unerased']:.0%}, {sane['weak']:.0%}", ", ".join(broken) or "–"]
    return markdown.row([name, *cells]), figures


def main(
    quick: bool = False,
    budget: str | None = None,
    methods: tuple[str, ...] = (),
    attacks: tuple[str, ...] = (),
    concepts: tuple[str, ...] = (),
    full: bool = False,
    samples: int | None = None,
    workers: int = 2,
    plan: bool = False,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """Attack every erasure and print one table.

    Args:
        quick: three samples each, the attacks' quick budgets.
        budget: published, canvas or quick.
        methods: erasers that are attacked, such as anchored or uce-published; uce and rece, of a full run three.
        attacks: which rows: attacks by their names, or `relapse-full`; those by words, of a full run all.
        concepts: which concepts; church, cat and noto, of a full run six.
        full: every attack on six concepts, eight samples each.
        samples: prompts and seeds of each attack.
        workers: processes of one thread each.
        plan: only say what is missing, and the minutes.
        output: folder that keeps everything found; a run that was stopped goes on there.
    """
    started = time.monotonic()
    methods = methods or (METHODS if full else METHODS[:2])
    attacks = attacks or (tuple(SEARCHES) if full else BY_WORDS)
    concepts = concepts or (CONCEPTS if full else ("church", "cat", "noto"))
    budget = budget or ("quick" if quick else "canvas")
    given = Samples(samples or (8 if full else 3 if quick else 4), sanity=2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (output or Path(scratch)) / weights_of(Model(canvas()))  # findings are of one model
        bouts = {name: [Bout(name, c, methods, budget, given, folder) for c in concepts] for name in attacks}
        missing = sum(bout.missing() for some in bouts.values() for bout in some)
        minutes = missing * MINUTES[budget] * given.count / 4 / workers
        print(f"{missing} attacks on erasures are missing: about {minutes:.0f} minutes", flush=True)
        if not plan:
            figures = fought_out(bouts, methods, workers)
            print(f"{(time.monotonic() - started) / 60:.1f} minutes, {len(concepts)} concepts")
            print(json.dumps(figures))


def fought_out(bouts: dict[str, list[Bout]], methods: Sequence[str], workers: int) -> dict[str, dict[str, Any]]:
    """Every row's figures; rows are printed as they are known."""
    figures: dict[str, dict[str, Any]] = {}
    heads = ["attack", *methods, "evaluations a sample", "past unerased, weak", "broken on"]
    print(markdown.head(heads), flush=True)
    # Small batches gain little from a second thread: whole bouts side by side gain nearly all of it.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        fought = {name: [pool.submit(bout.findings) for bout in some] for name, some in bouts.items()}
        try:
            for name, futures in fought.items():
                found = [future.result() for future in futures]
                said, figures[name] = row(name, {m: [findings[m] for findings in found] for m in methods})
                print(said, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return figures


if __name__ == "__main__":
    tyro.cli(main)
