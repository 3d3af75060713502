"""UnlearnCanvas's protocol on the embedded emoji canvas: one erasure a concept, all prompts, UA / IRA / CRA.

Drops are paired: the same prompts and seeds on the unerased model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from efface.api import erase
from efface.bench.engine import Progress, Worker, run, setting_of
from efface.bench.ledger import Ledger
from efface.bench.rates import Judged, Paired, Rate, paired, rate, scores
from efface.bench.unit import Setting, Unit, units_of
from efface.canvas import GUIDANCE, STEPS
from efface.canvas.words import BENCHMARK, STYLES, caption
from efface.erasures import Erasure
from efface.judges import canvas_judge
from efface.model import Model

KINDS = {"objects": BENCHMARK, "styles": STYLES}
SIDES = {"objects": ("object", "style"), "styles": ("style", "object")}
"""The judge of a kind's own domain, and that of the other."""


@dataclass(frozen=True)
class Plan:
    """What a run of the protocol draws."""

    methods: tuple[str, ...]
    seeds: int = 2
    quick: bool = False
    """A quarter of the concepts, a third of the prompts, one seed."""

    @property
    def concepts(self) -> dict[str, tuple[str, ...]]:
        """Erased concepts by kind."""
        return {kind: names[::4] if self.quick else names for kind, names in KINDS.items()}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(object, style) of every prompt; a quick run takes every third along the diagonals, and all of its concepts'."""
        every = [(o, s) for o in BENCHMARK for s in STYLES]
        if not self.quick:
            return every
        return [p for i, p in enumerate(every) if (i // len(STYLES) + i) % 3 == 0 or p[0] in self.concepts["objects"]]

    @property
    def work(self) -> list[tuple[str, int]]:
        """(prompt, seed) of every picture, the seeds of a prompt together."""
        return [(caption(*pair), seed) for pair in self.pairs for seed in range(1 if self.quick else self.seeds)]

    @property
    def pictures(self) -> int:
        """Drawn in all, the unerased model's included."""
        return len(self.work) * (1 + len(self.methods) * sum(map(len, self.concepts.values())))


class Line(NamedTuple):
    """One row of the table."""

    method: str
    concept: str
    kind: str
    ua: Rate
    ira: Rate
    cra: Rate
    ira_drop: Paired
    cra_drop: Paired
    intact: Rate
    seconds: float
    """For making the erasure."""
    bytes: int
    """Of its file."""


class Canvas:
    """A run of the protocol in a folder: `ledger.sqlite`, `erasures/`.

    Args:
        model: the emoji canvas.
        plan: what is drawn.
        folder: of the run; what it holds is not made again.
        options: method -> fields of its Config.
    """

    def __init__(self, model: Model, plan: Plan, folder: Path, options: dict[str, dict[str, Any]] | None = None):
        self.model, self.plan, self.folder, self.options = model, plan, folder, options or {}
        (folder / "erasures").mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.judges = {what: canvas_judge(what) for what in ("object", "style")}
        self.setting: Setting = setting_of(model, self.judges, steps=STEPS, guidance=GUIDANCE)

    def erasure(self, method: str, concept: str) -> tuple[str, Erasure]:
        """sha256 and erasure of one concept, made once and then read from the run's folder."""
        path = self.folder / "erasures" / f"{method}-{concept.replace(' ', '-')}.safetensors"
        if not path.exists():
            erase(self.model.pipeline, concept, method=method, **self.options.get(method, {})).save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest(), Erasure.load(path)

    def units(self, erasures: Sequence[str]) -> list[Unit]:
        """All pictures of one model, erased or not."""
        return units_of(self.setting, erasures, self.plan.work)

    def run(self, report: Progress = lambda done, total: None, say: Callable[[str], None] = lambda text: None) -> None:
        """Make the erasures, draw and judge what is missing."""
        made: dict[str, Erasure] = {}
        units = self.units(())
        for method in self.plan.methods:
            for names in self.plan.concepts.values():
                for concept in names:
                    sha256, erasure = self.erasure(method, concept)
                    made[sha256] = erasure
                    units += self.units((sha256,))
        say(f"{len(units)} units of up to 16 pictures, {len(self.ledger.missing(units))} still to do")
        run(Worker(self.model, made, self.judges), units, self.ledger, report)

    def lines(self) -> list[Line]:
        """The rows of the table, from the ledger alone."""
        before = self.verdicts(())
        found = []
        for method in self.plan.methods:
            for kind, names in self.plan.concepts.items():
                for concept in names:
                    sha256, erasure = self.erasure(method, concept)
                    found.append(self._line(method, kind, concept, before, self.verdicts((sha256,)), erasure))
        return found

    def verdicts(self, erasures: Sequence[str]) -> list[dict[str, Any]]:
        """What was recorded for every picture of one model, in the plan's order."""
        return [entry for unit in self.units(erasures) for entry in self.ledger.result(unit)]

    def judged(self, verdicts: Sequence[dict[str, Any]], kind: str) -> list[Judged]:
        """Pictures with what they should show, seen from one domain."""
        own, other = SIDES[kind]
        each = len(self.plan.work) // len(self.plan.pairs)
        side = 0 if kind == "objects" else 1
        return [
            Judged(
                i // each,
                self.plan.pairs[i // each][side],
                self.plan.pairs[i // each][1 - side],
                v[own]["label"],
                v[other]["label"],
            )
            for i, v in enumerate(verdicts)
        ]

    def _line(
        self,
        method: str,
        kind: str,
        concept: str,
        before: list[dict[str, Any]],
        after: list[dict[str, Any]],
        erasure: Erasure,
    ) -> Line:
        was, now = self.judged(before, kind), self.judged(after, kind)
        found = scores(now, [concept])
        kept = [i for i, p in enumerate(now) if p.concept != concept]
        erased = [i for i, p in enumerate(now) if p.concept == concept]
        prompts = [now[i].prompt for i in kept]

        def drop(hit: Callable[[Judged], bool]) -> Paired:
            return paired([hit(now[i]) for i in kept], [hit(was[i]) for i in kept], prompts)

        path = self.folder / "erasures" / f"{method}-{concept.replace(' ', '-')}.safetensors"
        return Line(
            method, concept, kind, found.ua, found.ira, found.cra,
            drop(lambda p: p.seen == p.concept), drop(lambda p: p.seen_other == p.other),
            rate([after[i]["object"]["intact"] for i in erased], [now[i].prompt for i in erased]),
            float(erasure.provenance.notes.get("seconds", 0.0)), path.stat().st_size,
        )  # fmt: skip


def unerased(canvas: Canvas) -> dict[str, Rate]:
    """The unerased model's own row: how often each judge is right, and how often pictures are intact."""
    verdicts = canvas.verdicts(())
    found = {}
    for kind in KINDS:
        pictures = canvas.judged(verdicts, kind)
        found[kind] = rate([p.seen == p.concept for p in pictures], [p.prompt for p in pictures])
    found["intact"] = rate([v["object"]["intact"] for v in verdicts])
    return found
