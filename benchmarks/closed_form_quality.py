"""What UCE and RECE remove from the emoji canvas, and what they damage: 29 erasures x 180 prompts.

    python benchmarks/closed_form_quality.py              # 2 seeds
    python benchmarks/closed_form_quality.py --seeds 5    # the full row
    python benchmarks/closed_form_quality.py --quick      # a few minutes: 7 erasures, a third of the prompts, one seed
    python benchmarks/closed_form_quality.py --curve-of church   # the trade-off over ridge and retained weight, one concept

UA is the share of pictures of the erased concept that no longer show it. IRA and CRA (other concepts of its kind; the
other kind, in pictures of other concepts) are given as drops, in points, against the unerased model on the same seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from efface.api import erase
from efface.canvas.score import Drawn, Rates, drawn, rates
from efface.canvas.words import BENCHMARK, STYLES
from efface.loading import load
from efface.model import Model

METHODS = ("uce", "rece")
TARGETS = {"objects": "UA ≥ 95, IRA drop ≤ 5, CRA drop ≤ 3", "styles": "UA ≥ 90, IRA drop ≤ 8, CRA drop ≤ 3"}
RIDGES, PRESERVES = (0.01, 0.1, 1.0, 10.0), (0.001, 0.01, 0.1, 1.0)
"""Grid of the trade-off curve."""


class Row(NamedTuple):
    """Figures of one erasure in percent."""

    ua: float
    ira_drop: float
    cra_drop: float
    intact: float

    def __str__(self) -> str:
        return f"UA {self.ua:5.1f}  IRA drop {self.ira_drop:5.1f}  CRA drop {self.cra_drop:5.1f}  intact {self.intact:5.1f}"


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
    before: Drawn

    def measure(self, concept: str, method: str, **options: Any) -> tuple[Row, str]:
        """The row of one erasure, and the concepts of its kind that fall most."""
        erasure = erase(self.model.pipeline, concept, method=method, **options)
        with erasure.attached(self.model.pipeline):
            after = drawn(self.model, self.pairs, seeds=range(self.seeds))
        return row_of(rates(self.before, concept), rates(after, concept)), fallen(self.before, after, concept)


def fallen(before: Drawn, after: Drawn, concept: str, count: int = 3) -> str:
    """Which other concepts of the same kind lose most, in points."""
    side = 0 if concept in BENCHMARK else 1
    was, now = ((before.objects, after.objects), (before.styles, after.styles))[side]
    losses: dict[str, list[int]] = {}
    for pair, a, b in zip(before.pairs, was, now, strict=True):
        losses.setdefault(pair[side], []).append((a == pair[side]) - (b == pair[side]))
    drops = {name: 100 * sum(values) / len(values) for name, values in losses.items() if name != concept}
    worst = sorted(drops, key=lambda name: -drops[name])[:count]
    return ", ".join(f"{name} {drops[name]:.0f}" for name in worst if drops[name] > 0)


def third(pairs: Sequence[tuple[str, str]], always: Iterable[str]) -> list[tuple[str, str]]:
    """Every third pair along the diagonals, and all pairs of the objects named."""
    return [p for i, p in enumerate(pairs) if (i // len(STYLES) + i) % 3 == 0 or p[0] in always]


def known_rows(output: Path | None) -> Iterator[tuple[tuple[str, str, int], tuple[Row, str]]]:
    """Rows of an earlier run, so that a long one can be continued."""
    if output and output.exists():
        for line in map(json.loads, output.read_text().splitlines()):
            yield (line["method"], line["concept"], line["seeds"]), (Row(*line["row"]), line["fallen"])


def curve(bench: Bench, concept: str, method: str) -> None:
    """The trade-off of one concept over the ridge λ and the retained weight p."""
    for ridge, preserve in product(RIDGES, PRESERVES):
        row, falls = bench.measure(concept, method, ridge=ridge, preserve_weight=preserve)
        print(f"{method} {concept}: λ {ridge:<6} p {preserve:<6} {row}  {falls}", flush=True)


def main(
    seeds: int = 2,
    quick: bool = False,
    methods: tuple[str, ...] = METHODS,
    output: Path | None = None,
    curve_of: tuple[str, ...] = (),
) -> None:
    """Measure every benchmark object and style.

    Args:
        seeds: pictures of every prompt.
        quick: four objects and three styles, a third of the prompts, one seed.
        methods: erasers to measure.
        output: JSON Lines file of every erasure's row; what it holds is not measured again.
        curve_of: only print the trade-off curve of these concepts.
    """
    started = time.monotonic()
    concepts: dict[str, tuple[str, ...]] = {"objects": BENCHMARK, "styles": STYLES}
    pairs = [(o, s) for o in BENCHMARK for s in STYLES]
    if quick or curve_of:
        seeds, concepts = 1, {"objects": BENCHMARK[::5], "styles": STYLES[::4]}
        pairs = third(pairs, {*curve_of, *concepts["objects"]})
    model = Model(load("emoji"))
    bench = Bench(model, pairs, seeds, drawn(model, pairs, seeds=range(seeds)))
    for concept in curve_of:
        for method in methods:
            curve(bench, concept, method)
    if curve_of:
        return
    known = dict(known_rows(output))
    figures: dict[str, dict[str, dict[str, float]]] = {method: {} for method in methods}
    for method in methods:
        for kind, names in concepts.items():
            rows = []
            for name in names:
                row, falls = known.get((method, name, seeds)) or bench.measure(name, method)
                if output and (method, name, seeds) not in known:
                    line = {"method": method, "concept": name, "seeds": seeds, "row": row, "fallen": falls}
                    with output.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                rows.append(row)
                print(f"{method:5} {name:15} {row}  {falls}", flush=True)
            print(f"{method:5} {kind:15} {mean(rows)}  target: {TARGETS[kind]}, intact ≥ 90", flush=True)
            figures[method][kind] = {k: round(v, 2) for k, v in mean(rows)._asdict().items()}
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, {seeds} seeds, {len(pairs)} prompts")
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
