"""Many concepts at once on the emoji canvas: what goes, what stays, known or not, and what stays bit for bit.

    python benchmarks/many.py --plan                  # what would be measured, and what that costs
    python benchmarks/many.py --quick -o RUN          # one draw, 5 and 20 concepts, one style
    python benchmarks/many.py -o RUN                  # everything; goes on where RUN ends

It is `efface bench canvas --mode many`, three times: five draws of long lists of the two tiers (`linear` is the method `joint`), the
first draw of shorter ones, and the first draw of the other methods. All 64 nouns in three styles are drawn with one seed. Drops are
against the unerased model on the same pictures. Then the gated map of the first draw is asked for what it erased by other words
(`many_words.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import tyro
from many_words import METHOD, by_synonyms, pictures_of
from quality import canvas

from efface.bench.protocols.canvas.estimate import cost
from efface.bench.protocols.canvas.many import COUNTS
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.run import Canvas
from efface.bench.table import markdown

TIERS = ("joint", "gated")
OTHERS = ("uce", "rece", "speed", "oce", "saeuron")
DRAWS, LONG = 5, 20
"""Random lists of the two tiers, from this number of concepts on; of shorter lists, and of the other methods, the first."""
WANTED = {"joint": (20, 40), "gated": (20, 40), "uce": (5, 10, 20), "rece": (5, 10, 20)}
"""Method -> numbers of concepts of the last line."""
NAMES = {"joint": "linear"}
"""What the last line calls a method, where it is not its name."""
CELLS = {
    "gone": "gone",
    "known_drop": "kept known drop",
    "unknown_drop": "kept unknown drop",
    "intact": "intact",
    "identical": "identical",
}
"""Figure -> cell of the protocol's table."""


def plans(
    methods: tuple[str, ...], counts: tuple[int, ...], draws: int | None, *, quick: bool = False
) -> dict[str, Plan]:
    """Folder inside the run -> what is drawn there."""
    parts = {
        "tiers": (TIERS, [count for count in counts if count >= LONG], DRAWS),
        "shorter": (TIERS, [count for count in counts if count < LONG], 1),
        "others": (OTHERS, counts, 1),
    }
    found = {}
    for name, (members, own, most) in parts.items():
        if own and (chosen := tuple(method for method in members if method in methods)):
            count = most if draws is None else min(draws, most)
            found[name] = Plan(chosen, seeds=1, quick=quick, mode="many", counts=tuple(own), draws=count)
    return found


def figures(protocol: Canvas) -> dict[tuple[str, int], list[dict[str, float]]]:
    """(method, number of concepts) -> the figures of every draw, in percent."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    rows = {(row.method, row.concepts): row for row in protocol.results.rows()}
    for method in protocol.plan.methods:
        for target in protocol.plan.targets:
            row = rows.get((method, target.title))
            values: dict[str, Any] = {} if row is None else {n: row.cells.get(c) for n, c in CELLS.items()}
            found.setdefault((method, len(target.gone)), []).append(
                {
                    n: 100 * getattr(cell, "value", getattr(cell, "difference", 0.0))
                    for n, cell in values.items()
                    if cell
                }
            )
    return found


def summary(found: dict[tuple[str, int], list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means over the draws: method -> number of concepts -> figure; None where nothing was measured."""
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for method, counts in WANTED.items():
        own = result.setdefault(NAMES.get(method, method), {})
        for count in counts:
            own[str(count)] = {
                name: mean([draw[name] for draw in found.get((method, count), ()) if name in draw])
                for name in CELLS
                if name != "identical" or method == "gated"
            }
    return result


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return round(sum(values) / len(values), 2) if values else None


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("many-run"),
    quick: bool = False,
    plan: bool = False,
    methods: tuple[str, ...] = (*TIERS, *OTHERS),
    counts: tuple[int, ...] = COUNTS,
    draws: int | None = None,
) -> None:
    """Measure.

    Args:
        output: folder of the runs; what it holds is not measured again.
        quick: one draw of joint, gated and uce, 5 and 20 concepts, one style.
        plan: only say what would be measured.
        methods: which.
        counts: how many concepts at once.
        draws: at most so many of each.
    """
    if quick:
        methods = (*TIERS, "uce")
        counts = (5, 20)
        draws = 1
    model = canvas()
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for name, part in plans(methods, counts, draws, quick=quick).items():
        print(f"{name}: {', '.join(part.methods)}, {cost(model, part, output / name)}", flush=True)
        if plan:
            continue
        protocol = Canvas(model, part, output / name)
        protocol.run(say=lambda text: print(text, flush=True))
        print("\n".join([markdown(protocol.rows()), *protocol.results.remarks()]), flush=True)
        found |= figures(protocol)
        protocol.ledger.close()
    asked = [count for count in WANTED[METHOD] if count in counts] if METHOD in methods else []
    print(f"held-out synonyms: {pictures_of(asked)} pictures", flush=True)
    if not plan:
        last = summary(found)
        for count, shares in by_synonyms(model, asked, output).items():
            last[METHOD][str(count)] |= {name: share.percent for name, share in shares.items()}
        print(json.dumps(last))


if __name__ == "__main__":
    tyro.cli(main)
