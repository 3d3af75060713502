"""The main job on the embedded model, with a picture: forget a church, draw everything else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say_decisions

if TYPE_CHECKING:
    from efface.profiles.emoji.score import Rates


@dataclass(frozen=True)
class Request:
    """Erase an object from the emoji canvas and show what changed."""

    concept: tyro.conf.Positional[str] = "church"
    """An object of the canvas."""
    method: str = "rece"
    """The eraser: rece or uce."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("efface-demo")
    """Folder for the picture and the erasure."""
    seeds: int = 2
    """Pictures of each prompt."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface demo", description=__doc__)
    from efface.api.erase import plan_erasure
    from efface.cli.progress import ProgressBar
    from efface.errors import UsageError
    from efface.io.images import save_picture
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.profiles.emoji.score import draw_and_judge, rates
    from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
    from efface.report.decisions import erasing_rows
    from efface.report.grid import image_grid

    if request.concept not in BENCHMARK:
        raise UsageError(
            f"the demo erases one of the canvas's benchmark objects, not {request.concept!r}: {', '.join(BENCHMARK)}."
        )
    request.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pipeline = options.load("emoji")
    plan = plan_erasure(pipeline, request.concept, method=request.method)
    say_decisions([("method", request.method), *erasing_rows(plan.to_json())])
    erasure = plan.run()
    path = request.output / f"{request.concept.replace(' ', '-')}.safetensors"
    picture = request.output / "demo.png"
    size = erasure.save(path)

    pairs = [(request.concept, style) for style in STYLES]
    pairs += [(name, STYLES[i % len(STYLES)]) for i, name in enumerate(n for n in BENCHMARK if n != request.concept)]
    model = Model(pipeline)
    drawings = {}
    seeds = range(options.seed or 0, (options.seed or 0) + request.seeds)
    count = 2 * len(pairs) * request.seeds
    with ProgressBar(f"drawing and judging {count} pictures") as progress, drawing(progress, count):
        drawings["before"] = draw_and_judge(model, pairs, seeds=seeds, side=options.size)
        with erasure.attached(pipeline):
            drawings["after"] = draw_and_judge(model, pairs, seeds=seeds, side=options.size)

    columns = chosen_columns(request.concept, pairs)
    rows = [[at_this_time.image(pair, 0) for pair in columns] for at_this_time in drawings.values()]
    save_picture(
        image_grid(rows, columns=[caption(*pair) for pair in columns], labels=list(drawings), cell=96), picture
    )
    report(
        request,
        before=rates(drawings["before"], request.concept),
        after=rates(drawings["after"], request.concept),
        edit_seconds=erasure.provenance.notes["seconds"],
        bytes=size,
        picture=str(picture),
        erasure=str(path),
        seconds=round(time.perf_counter() - started, 1),
    )


def chosen_columns(concept: str, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs on the picture: the erased object in four styles, its neighbours, unrelated objects."""
    from efface.profiles.emoji.score import neighbours_of
    from efface.profiles.emoji.words import BENCHMARK, object_class

    unrelated = [name for name in BENCHMARK if object_class(name).kind != object_class(concept).kind][-3:]
    others = {*neighbours_of(concept, 3), *unrelated}
    return [(concept, s) for s in ("noto", "twemoji", "fluent", "outline")] + [p for p in pairs if p[0] in others]


def report(request: Request, before: Rates, after: Rates, **facts: Any) -> None:
    """Print the table, or the JSON object."""
    data = {
        "concept": request.concept,
        "method": request.method,
        "erased_before": before.erased,
        "erased_after": after.erased,
        "others_before": before.others,
        "others_after": after.others,
        "styles_before": before.styles,
        "styles_after": after.styles,
        "intact_after": after.intact,
    } | facts
    rows = [
        (f"{request.concept} detected", f"{before.erased:.0%} before, {after.erased:.0%} after"),
        ("other objects right", f"{before.others:.0%} before, {after.others:.0%} after"),
        ("styles right (others)", f"{before.styles:.0%} before, {after.styles:.0%} after"),
        ("erased pictures intact", f"{after.intact:.0%}"),
        ("edit", f"{facts['edit_seconds']:.2f} s, {facts['bytes']:,} bytes"),
        ("picture", facts["picture"]),
        ("erasure", facts["erasure"]),
        ("everything", f"{facts['seconds']} s"),
    ]
    result(data, as_json=request.json, rows=rows)
