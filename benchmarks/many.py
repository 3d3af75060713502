"""Many concepts at once on the emoji canvas: what goes, what stays, known or not, and what stays bit for bit.

    python benchmarks/many.py --plan                  # what would be measured, and how many pictures that is
    python benchmarks/many.py --quick -o RUN          # one draw, 5 and 20 concepts, one style
    python benchmarks/many.py -o RUN                  # everything; goes on where RUN ends

All 64 nouns in three styles with one seed are drawn and judged for every erasure, "a NOUN in STYLE style". Draw s erases the first k
nouns of random.Random(s).shuffle. Of the surviving nouns every second is known: its captions are retained, and gates are set
against them; of the others neither the erasure nor its prior sees a word. `linear` is the method `joint`. Drops are against the
unerased model on the same pictures; `identical` is the share of pictures without an erased noun whose text states are the same
to the last bit. A row is written as soon as it is measured.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro

from efface.api.erase import erase
from efface.erasures import GatedMap
from efface.errors import EffaceError
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.score import JudgedImages, draw_and_judge
from efface.profiles.emoji.words import OBJECTS, caption

NOUNS = tuple(entry.name for entry in OBJECTS)
STYLES = ("noto", "stencil", "flat")
ALL_STYLES = (None, "noto", "blob", "firefox", "twemoji", "emojione", "stencil", "fluent", "flat", "outline")
METHODS = {"linear": "joint", "gated": "gated"}
"""Names in the results -> methods, where they differ."""
DRAWS = {"linear": 5, "gated": 5, "uce": 1, "rece": 1, "speed": 1, "oce": 1, "saeuron": 1}
"""How many draws of each method."""
COUNTS = (1, 5, 10, 20, 40)


class Job(NamedTuple):
    """One erasure."""

    method: str
    erased: int
    """How many nouns at once."""
    draw: int

    @property
    def key(self) -> str:
        """As rows name it."""
        return f"{self.method}-{self.erased}-{self.draw}"

    def split(self) -> tuple[list[str], list[str], list[str]]:
        """Erased nouns, known and unknown surviving ones."""
        order = list(NOUNS)
        random.Random(self.draw).shuffle(order)
        rest = order[self.erased :]
        return order[: self.erased], rest[::2], rest[1::2]


def jobs(methods: tuple[str, ...], counts: tuple[int, ...], draws: int | None) -> list[Job]:
    """Everything that is to be measured, the shortest first."""
    return [
        Job(method, count, draw)
        for count in counts
        for method in methods
        for draw in range(DRAWS[method] if draws is None else min(draws, DRAWS[method]))
    ]


def shown(judged: JudgedImages, nouns: list[str]) -> float:
    """Share of the pictures of some nouns that show theirs."""
    values = [v.shown for v, s in zip(judged.objects, judged.samples, strict=True) if s.shows[0] in nouns]
    return sum(values) / max(1, len(values))


def intact(judged: JudgedImages, nouns: list[str]) -> float:
    """Share of the pictures of some nouns that are whole."""
    values = [v.intact for v, s in zip(judged.objects, judged.samples, strict=True) if s.shows[0] in nouns]
    return sum(values) / max(1, len(values))


def identical(model: Model, erasure: Any, nouns: list[str], styles: tuple[str, ...]) -> float | None:
    """Share of prompts whose text states pass bit for bit; None for erasures that are no gated map."""
    if not isinstance(erasure, GatedMap):
        return None
    same = []
    for noun in nouns:
        for style in styles:
            states = model.projection_inputs(model.encode([caption(noun, style)]))
            same.append(torch.equal(erasure.map(states), states))
    return sum(same) / max(1, len(same))


def measured(model: Model, job: Job, before: JudgedImages, styles: tuple[str, ...]) -> dict[str, Any]:
    """The row of one erasure, in percent."""
    erased, known, unknown = job.split()
    keep = [caption(noun, style) for noun in known for style in ALL_STYLES]
    method = METHODS.get(job.method, job.method)
    options: dict[str, Any] = {"prior": "never"} if job.method in METHODS else {}
    if method != "saeuron":
        options["keep"] = keep
    started = time.perf_counter()
    erasure = erase(model.pipeline, erased, method=method, **options)
    seconds = time.perf_counter() - started
    pairs = [(noun, style) for noun in NOUNS for style in styles]
    with erasure.attached(model.pipeline):
        after = draw_and_judge(model, pairs, seeds=range(1))
    drops = {n: shown(before, [n]) - shown(after, [n]) for n in (*known, *unknown)}
    worst = max(drops, key=lambda name: drops[name])
    share = identical(model, erasure, [*known, *unknown], styles)
    return {
        "gone": 100 * (1 - shown(after, erased)),
        "known_drop": 100 * (shown(before, known) - shown(after, known)),
        "unknown_drop": 100 * (shown(before, unknown) - shown(after, unknown)),
        "intact": 100 * intact(after, erased),
        "identical": None if share is None else 100 * share,
        "worst": f"{worst} {100 * drops[worst]:.0f}",
        "seconds": round(seconds, 2),
        "found": {n: erasure.provenance.notes.get(n) for n in ("weight", "progress", "drift")},
    }


FIGURES = ("gone", "known_drop", "unknown_drop", "intact", "identical")


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means over the draws: method -> number of concepts -> figure; None where nothing was measured."""
    wanted = {"linear": (20, 40), "gated": (20, 40), "uce": (5, 10, 20), "rece": (5, 10, 20)}
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for method, counts in wanted.items():
        result[method] = {}
        for count in counts:
            found = [row for key, row in rows.items() if key.startswith(f"{method}-{count}-")]
            names = FIGURES if method == "gated" else FIGURES[:-1]
            values = {name: [row[name] for row in found if row[name] is not None] for name in names}
            result[method][str(count)] = {n: round(sum(v) / len(v), 2) if v else None for n, v in values.items()}
    return result


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    quick: bool = False,
    plan: bool = False,
    methods: tuple[str, ...] = tuple(DRAWS),
    counts: tuple[int, ...] = COUNTS,
    draws: int | None = None,
) -> None:
    """Measure.

    Args:
        output: folder of the rows; what it holds is not measured again.
        quick: one draw of linear, gated and uce, 5 and 20 concepts, one style.
        plan: only say what would be measured.
        methods: which.
        counts: how many concepts at once.
        draws: at most so many of each.
    """
    styles = STYLES
    if quick:
        methods = ("linear", "gated", "uce")
        counts = (5, 20)
        draws = 1
        styles = STYLES[:1]
    todo = jobs(methods, counts, draws)
    pictures = (len(todo) + 1) * len(NOUNS) * len(styles)
    print(f"{len(todo)} erasures, {pictures:,} pictures: {', '.join(job.key for job in todo)}", flush=True)
    if plan:
        return
    file = None if output is None else output / f"many-{len(styles)}.jsonl"
    rows: dict[str, dict[str, Any]] = {}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}
    model = Model(load("emoji"))
    before = None
    for job in todo:
        if job.key in rows:
            continue
        before = before or draw_and_judge(model, [(n, s) for n in NOUNS for s in styles], seeds=range(1))
        try:
            rows[job.key] = measured(model, job, before, styles)
        except EffaceError as error:
            print(f"{job.key}: {error}", flush=True)
            continue
        print(job.key, json.dumps(rows[job.key]), flush=True)
        if file is not None:
            with file.open("a") as lines:
                lines.write(json.dumps([job.key, rows[job.key]]) + "\n")
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    tyro.cli(main)
