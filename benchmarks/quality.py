"""What the quality benchmarks share: the prompts of the canvas, the unerased pictures, and rows of figures.

UA is the share of pictures of the erased concept that no longer show it. IRA and CRA (other concepts of its kind; the
other kind, in pictures of other concepts) are given as drops, in points, against the unerased model on the same seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from efface.api.erase import erase
from efface.erasures import Erasure
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.score import JudgedImages, Rates, draw_and_judge, rates
from efface.profiles.emoji.words import BENCHMARK, STYLES
from efface.profiles.scenes.exam import Exam, Figures, Share


class Row(NamedTuple):
    """Figures of one erasure in percent."""

    ua: float
    ira_drop: float
    cra_drop: float
    intact: float

    def __str__(self) -> str:
        return f"UA {self.ua:5.1f}  IRA drop {self.ira_drop:5.1f}  CRA drop {self.cra_drop:5.1f}  intact {self.intact:5.1f}"

    def shortfall(self, target: Row) -> tuple[float, float]:
        """Points by which a target is missed, all four added; then, for those that miss as little, what is damaged."""
        missed = max(0, target.ua - self.ua) + max(0, target.intact - self.intact)
        missed += max(0, self.ira_drop - target.ira_drop) + max(0, self.cra_drop - target.cra_drop)
        return missed, self.ira_drop + self.cra_drop - self.ua


def row_of(before: Rates, after: Rates) -> Row:
    """Percentages of one erasure."""
    ira, cra = before.others - after.others, before.styles - after.styles
    return Row(100 * (1 - after.erased), 100 * ira, 100 * cra, 100 * after.intact)


def mean(rows: Sequence[Row]) -> Row:
    """Column means."""
    return Row(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


@dataclass
class Bench:
    """A model, the prompts, and what the unerased model makes of them."""

    model: Model
    pairs: list[tuple[str, str]]
    seeds: int
    before: JudgedImages
    output: Path | None = None
    """JSON Lines file of every row, so that a long run can be continued."""

    def __post_init__(self) -> None:
        lines = self.output.read_text().splitlines() if self.output and self.output.exists() else []
        self.known = {line["key"]: (Row(*line["row"]), line["fallen"]) for line in map(json.loads, lines)}

    def measure(self, concept: str, method: str, **options: Any) -> tuple[Row, str]:
        """The row of one erasure, and the concepts of its kind that fall most."""
        key = json.dumps(
            [method, concept, self.seeds, len(self.pairs), {k: v for k, v in options.items() if k != "judge"}]
        )
        if key not in self.known:
            after = self.after(erase(self.model.pipeline, concept, method=method, **options))
            row, falls = row_of(rates(self.before, concept), rates(after, concept)), fallen(self.before, after, concept)
            self.known[key] = row, falls
            if self.output:
                with self.output.open("a") as file:
                    file.write(json.dumps({"key": key, "row": row, "fallen": falls}) + "\n")
        return self.known[key]

    def after(self, *erasures: Erasure) -> JudgedImages:
        """All pictures with erasures attached."""
        with ExitStack() as stack:
            for erasure in erasures:
                stack.enter_context(erasure.attached(self.model.pipeline))
            return draw_and_judge(self.model, self.pairs, seeds=range(self.seeds))


@dataclass
class SceneBench:
    """The second embedded model, and what it makes of every prompt without an erasure."""

    exam: Exam
    output: Path | None = None
    """JSON Lines file of every row, so that a long run can be continued."""

    def __post_init__(self) -> None:
        lines = self.output.read_text().splitlines() if self.output and self.output.exists() else []
        self.known = {line["key"]: Figures(*(Share(*pair) for pair in line["row"])) for line in map(json.loads, lines)}

    @property
    def model(self) -> Model:
        """The scenes."""
        return self.exam.model

    def measure(self, concept: str, method: str, **options: Any) -> tuple[Figures, str]:
        """The figures of one erasure; nothing is said of single concepts that fall."""
        asked = [len(self.exam.shared), self.exam.scenes]
        key = json.dumps([method, concept, asked, {k: v for k, v in options.items() if k != "judge"}])
        if key not in self.known:
            self.known[key] = self.exam.after(concept, erase(self.model.pipeline, concept, method=method, **options))
            if self.output:
                with self.output.open("a") as file:
                    file.write(json.dumps({"key": key, "row": self.known[key]}) + "\n")
        return self.known[key], ""


def fallen(before: JudgedImages, after: JudgedImages, concept: str, count: int = 3) -> str:
    """Which other concepts of the same kind lose most, in points."""
    side = 0 if concept in BENCHMARK else 1
    was, now = ((before.objects, after.objects), (before.styles, after.styles))[side]
    losses: dict[str, list[int]] = {}
    for sample, a, b in zip(before.samples, was, now, strict=True):
        losses.setdefault(sample.shows[side], []).append(a.shown - b.shown)
    drops = {name: 100 * sum(values) / len(values) for name, values in losses.items() if name != concept}
    worst = sorted(drops, key=lambda name: -drops[name])[:count]
    return ", ".join(f"{name} {drops[name]:.0f}" for name in worst if drops[name] > 0)


def third(pairs: Sequence[tuple[str, str]], always: Iterable[str]) -> list[tuple[str, str]]:
    """Every third pair along the diagonals, and all pairs of the objects named."""
    return [p for i, p in enumerate(pairs) if (i // len(STYLES) + i) % 3 == 0 or p[0] in always]


def bench_of(
    seeds: int, quick: bool, output: Path | None, always: Sequence[str] = ()
) -> tuple[Bench, dict[str, tuple[str, ...]]]:
    """The canvas with its unerased pictures, and the concepts of each kind; `quick` takes four objects and three styles,
    a third of the prompts and one seed."""
    concepts: dict[str, tuple[str, ...]] = {"objects": BENCHMARK, "styles": STYLES}
    pairs = [(o, s) for o in BENCHMARK for s in STYLES]
    if quick:
        seeds, concepts = 1, {"objects": BENCHMARK[::5], "styles": STYLES[::4]}
        pairs = third(pairs, {*always, *concepts["objects"]})
    model = Model(load("emoji"))
    return Bench(model, pairs, seeds, draw_and_judge(model, pairs, seeds=range(seeds)), output), concepts


def scenes_of(
    seeds: int, quick: bool, full: bool, output: Path | None
) -> tuple[SceneBench, dict[str, tuple[str, ...]]]:
    """The second embedded model, and the concepts of each kind: every third pair, 60 prompts; `full` takes all 180, `quick` four
    objects and three styles, and 10 of the 40 two-object pictures of each."""
    concepts: dict[str, tuple[str, ...]] = {"objects": BENCHMARK, "styles": STYLES}
    pairs = [(o, s) for o in BENCHMARK for s in STYLES]
    if quick:
        concepts = {"objects": BENCHMARK[::5], "styles": STYLES[::4]}
    if not full:
        pairs = third(pairs, concepts["objects"] if quick else ())
    exam = Exam(Model(load("scenes")), pairs, 1 if quick else seeds, scenes=10 if quick else 40)
    return SceneBench(exam, output), concepts


def rounded(row: Row) -> dict[str, float]:
    """A row for JSON."""
    return {k: round(v, 2) for k, v in row._asdict().items()}
