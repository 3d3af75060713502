"""What UCE and RECE remove from the emoji canvas, and what they damage: 29 erasures x 180 prompts.

    python benchmarks/closed_form_quality.py              # 2 seeds
    python benchmarks/closed_form_quality.py --seeds 5    # the full row
    python benchmarks/closed_form_quality.py --quick      # a few minutes: 6 erasures, 60 prompts, one seed

UA is the share of pictures of the erased concept that no longer show it. IRA and CRA (other concepts of its kind; the
other kind, in pictures of other concepts) are given as drops, in points, against the unerased model on the same seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from efface.api import erase
from efface.canvas.score import Drawn, Rates, drawn, rates
from efface.canvas.words import BENCHMARK, STYLES
from efface.loading import load
from efface.model import Model

METHODS = ("uce", "rece")
TARGETS = {"object": (95, 5, 3), "style": (90, 8, 3)}
"""UA at least, IRA drop and CRA drop at most."""


class Row(NamedTuple):
    """Figures of one erasure in percent."""

    ua: float
    ira_drop: float
    cra_drop: float
    intact: float


def row_of(before: Rates, after: Rates) -> Row:
    """Percentages of one erasure."""
    return Row(
        100 * (1 - after.erased),
        100 * (before.others - after.others),
        100 * (before.styles - after.styles),
        100 * after.intact,
    )


def mean(rows: Sequence[Row]) -> Row:
    """Column means."""
    return Row(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def as_text(row: Row) -> str:
    """One line of a table."""
    return f"UA {row.ua:5.1f}  IRA drop {row.ira_drop:5.1f}  CRA drop {row.cra_drop:5.1f}  intact {row.intact:5.1f}"


def measure(model: Model, concept: str, method: str, pairs: list[tuple[str, str]], seeds: int, before: Drawn, **options: Any) -> Row:
    """Erase, draw the pairs, judge, take off."""
    erasure = erase(model.pipeline, concept, method=method, **options)
    with erasure.attached(model.pipeline):
        after = drawn(model, pairs, seeds=range(seeds))
    return row_of(rates(before, concept), rates(after, concept))


def worst_neighbours(before: Drawn, after: Drawn, concept: str, count: int = 3) -> str:
    """Which other concepts fall most, for the explanation of a missed target."""
    side = 0 if concept in BENCHMARK else 1
    falls: dict[str, list[int]] = {}
    for pair, was, now in zip(before.pairs, (before.objects, before.styles)[side], (after.objects, after.styles)[side], strict=True):
        if pair[side] != concept:
            falls.setdefault(pair[side], []).append((was == pair[side]) - (now == pair[side]))
    ranked = sorted(falls, key=lambda name: -sum(falls[name]))[:count]
    return ", ".join(f"{name} −{100 * sum(falls[name]) / len(falls[name]):.0f}" for name in ranked)


def main(seeds: int = 2, quick: bool = False, methods: tuple[str, ...] = METHODS, output: Path | None = None) -> None:
    """Measure every benchmark object and style.

    Args:
        seeds: pictures of every prompt.
        quick: four objects and two styles, a third of the prompts, one seed.
        methods: erasers to measure.
        output: JSON Lines file of every erasure's row; measured ones are not measured again.
    """
    started = time.monotonic()
    concepts = {"object": BENCHMARK, "style": STYLES}
    pairs = [(o, s) for o in BENCHMARK for s in STYLES]
    if quick:
        seeds, concepts = 1, {"object": BENCHMARK[::5], "style": STYLES[::5]}
        pairs = [pair for i, pair in enumerate(pairs) if (i // 9 + i) % 3 == 0 or pair[0] in BENCHMARK[::5]]
    model = Model(load("emoji"))
    before = drawn(model, pairs, seeds=range(seeds))
    done = [json.loads(line) for line in output.read_text().splitlines()] if output and output.exists() else []
    figures: dict[str, Any] = {}
    for method in methods:
        figures[method] = {}
        for kind, names in concepts.items():
            rows = []
            for name in names:
                known = [d for d in done if (d["method"], d["concept"], d["seeds"]) == (method, name, seeds)]
                row = Row(*known[0]["row"]) if known else measure(model, name, method, pairs, seeds, before)
                if output and not known:
                    with output.open("a") as file:
                        file.write(json.dumps({"method": method, "concept": name, "seeds": seeds, "row": row}) + "\n")
                rows.append(row)
                print(f"{method:5} {name:15} {as_text(row)}", flush=True)
            total, best = mean(rows), mean(sorted(rows, key=lambda r: r.ua - r.ira_drop - r.cra_drop)[-(len(rows) + 1) // 2 :])
            ua, ira, cra = TARGETS[kind]
            print(f"{method:5} {kind + 's':15} {as_text(total)}   (target UA ≥ {ua}, drops ≤ {ira} and ≤ {cra}, intact ≥ 90)")
            print(f"{'':5} {'better half':15} {as_text(best)}", flush=True)
            figures[method][kind + "s"] = {k: round(v, 2) for k, v in total._asdict().items()}
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, {seeds} seeds, {len(pairs)} prompts")
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
