"""What closed forms remove from the emoji canvas, by names, by words it never trained on and inside a picture, and what they damage.

python benchmarks/closed_form_quality.py -o RUN.jsonl    # 29 erasures a method, 60 prompts x 2 seeds and each concept's own
python benchmarks/closed_form_quality.py --quick         # four objects and three styles, one seed
python benchmarks/closed_form_quality.py --full          # all 180 prompts
python benchmarks/closed_form_quality.py --curve-of violin   # the trade-off over ridge and retained weight, one concept
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import tyro
from quality import DTYPE, Bench, bench_of

from efface.profiles.emoji.shares import Figures, added

METHODS = ("uce", "rece")
TARGETS = "UA ≥ 95, by synonyms ≥ 85, IRA drop ≤ 5, CRA drop ≤ 3, intact ≥ 85, in picture ≥ 90"
RIDGES, PRESERVES = (0.01, 0.1, 1.0, 10.0), (0.001, 0.01, 0.1, 1.0)
"""Grid of the trade-off curve."""
MINUTES = 3.0
"""Of one erasure with everything drawn, on one of two idle cores."""


def table(bench: Bench, method: str, kind: str, names: Sequence[str]) -> Figures:
    """Print the rows of one method and kind; their sum."""
    rows = []
    for name in names:
        rows.append(bench.measure(name, method))
        print(f"{method:9} {name:15} {rows[-1]}", flush=True)
    print(f"{method:9} {kind:15} {added(rows)}", flush=True)
    return added(rows)


def curve(bench: Bench, concept: str, method: str) -> None:
    """The trade-off of one concept over the ridge λ and the retained weight p."""
    for ridge, preserve in product(RIDGES, PRESERVES):
        row = bench.measure(concept, method, ridge=ridge, preserve_weight=preserve)
        print(f"{method} {concept}: λ {ridge:<6} p {preserve:<6} {row}", flush=True)


def main(
    seeds: int = 2,
    quick: bool = False,
    full: bool = False,
    methods: tuple[str, ...] = METHODS,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    curve_of: tuple[str, ...] = (),
    plan: bool = False,
    dtype: str = DTYPE,
) -> None:
    """Measure every benchmark object and style.

    Args:
        seeds: pictures of every prompt.
        quick: four objects and three styles, one seed, ten two-object pictures of each.
        full: all 180 pairs rather than every third.
        methods: erasers to measure.
        output: JSON Lines file of every erasure's row; what it holds is not measured again.
        curve_of: only print the trade-off curve of these concepts.
        plan: only say what is missing.
        dtype: in which the canvas is loaded and draws.
    """
    started = time.monotonic()
    bench, concepts = bench_of(seeds, quick, full, output, dtype)
    wanted = [bench.key(name, method) for method in methods for names in concepts.values() for name in names]
    missing = len([key for key in wanted if key not in bench.known])
    print(
        f"{missing} of {len(wanted)} erasures to measure, each up to {MINUTES:.0f} minutes; targets of objects: {TARGETS}"
    )
    if plan:
        return
    for concept, method in product(curve_of, methods):
        curve(bench, concept, method)
    if curve_of:
        return
    found = {m: {kind: table(bench, m, kind, names).to_json() for kind, names in concepts.items()} for m in methods}
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    print(json.dumps(found))


if __name__ == "__main__":
    tyro.cli(main)
