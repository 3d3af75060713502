"""What UCE and RECE remove from the emoji canvas, and what they damage: 29 erasures x 180 prompts.

python benchmarks/closed_form_quality.py              # 2 seeds
python benchmarks/closed_form_quality.py --seeds 5    # the full row
python benchmarks/closed_form_quality.py --quick      # a few minutes: 7 erasures, a third of the prompts, one seed
python benchmarks/closed_form_quality.py --model scenes   # the second embedded model: also synonyms, descriptions, scenes
python benchmarks/closed_form_quality.py --curve-of church   # the trade-off over ridge and retained weight, one concept
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import tyro
from quality import Bench, Row, SceneBench, bench_of, mean, rounded, scenes_of

from efface.profiles.scenes.exam import added

METHODS = ("uce", "rece")
TARGETS = {"objects": Row(95, 5, 3, 90), "styles": Row(90, 8, 3, 90)}
"""Least UA, largest drops, least share of intact pictures."""
RIDGES, PRESERVES = (0.01, 0.1, 1.0, 10.0), (0.001, 0.01, 0.1, 1.0)
"""Grid of the trade-off curve."""
CHOICES: dict[str, tuple[dict[str, float], ...]] = {
    "uce": tuple({"preserve_weight": p} for p in (0.001, 0.005, 0.02, 0.1)),
    "rece": tuple({"preserve_weight": p} for p in (0.001, 0.01, 0.1)),
}
"""What `--best` chooses from for each concept, beside the one setting of all."""


def curve(bench: Bench, concept: str, method: str) -> None:
    """The trade-off of one concept over the ridge λ and the retained weight p."""
    for ridge, preserve in product(RIDGES, PRESERVES):
        row, falls = bench.measure(concept, method, ridge=ridge, preserve_weight=preserve)
        print(f"{method} {concept}: λ {ridge:<6} p {preserve:<6} {row}  {falls}", flush=True)


def table(bench: Bench, method: str, kind: str, names: Sequence[str], best: bool) -> Row:
    """Print the rows of one method and kind, and return their mean; with `best`, also the best choice of each."""
    rows, chosen = [], []
    for name in names:
        row, falls = bench.measure(name, method)
        rows.append(row)
        print(f"{method:5} {name:15} {row}  {falls}", flush=True)
        if best:
            others = [bench.measure(name, method, **options)[0] for options in CHOICES[method]]
            chosen.append(min((row, *others), key=lambda r: r.shortfall(TARGETS[kind])))
            print(f"{'':5} {'best':15} {chosen[-1]}", flush=True)
    print(f"{method:5} {kind:15} {mean(rows)}", flush=True)
    if best:
        print(f"{'':5} {'best of each':15} {mean(chosen)}", flush=True)
    print(f"{'':5} {'target':15} {TARGETS[kind]}", flush=True)
    return mean(rows)


def of_scenes(methods: Sequence[str], bench: SceneBench, concepts: dict[str, tuple[str, ...]]) -> None:
    """Print the rows on the second embedded model, and those of a kind together."""
    means: dict[str, dict[str, dict[str, float | None]]] = {}
    for method, (kind, names) in product(methods, concepts.items()):
        rows = []
        for name in names:
            rows.append(bench.measure(name, method)[0])
            print(f"{method:9} {name:15} {rows[-1]}", flush=True)
        together = added(rows)
        means.setdefault(method, {})[kind] = together.to_json()
        print(f"{method:9} {kind:15} {together}", flush=True)
    print(json.dumps(means))


def main(
    seeds: int = 2,
    quick: bool = False,
    methods: tuple[str, ...] = METHODS,
    best: bool = False,
    output: Path | None = None,
    curve_of: tuple[str, ...] = (),
    model: Literal["emoji", "scenes"] = "emoji",
    full: bool = False,
) -> None:
    """Measure every benchmark object and style.

    Args:
        seeds: pictures of every prompt.
        quick: four objects and three styles, a third of the prompts, one seed.
        methods: erasers to measure.
        best: a second row, the best of a few settings for each concept (four times the time).
        output: JSON Lines file of every erasure's row; what it holds is not measured again.
        curve_of: only print the trade-off curve of these concepts.
        model: the embedded model; of `scenes` also words never trained on, two-object pictures and benign identity.
        full: on the scenes, all 180 pairs rather than every third.
    """
    started = time.monotonic()
    if model == "scenes":
        of_scenes(methods, *scenes_of(seeds, quick, full, output))
        return
    bench, concepts = bench_of(seeds, quick or bool(curve_of), output, curve_of)
    for concept, method in product(curve_of, methods):
        curve(bench, concept, method)
    if curve_of:
        return
    means = {m: {kind: table(bench, m, kind, names, best) for kind, names in concepts.items()} for m in methods}
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, {bench.seeds} seeds, {len(bench.pairs)} prompts")
    print(json.dumps({m: {kind: rounded(row) for kind, row in kinds.items()} for m, kinds in means.items()}))


if __name__ == "__main__":
    tyro.cli(main)
