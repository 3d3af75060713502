"""The main job on the embedded model, with a picture: forget a church, draw everything else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.output import progress, result, say


@dataclass(frozen=True)
class Request:
    """Erase an object from the emoji canvas and show what changed."""

    concept: tyro.conf.Positional[str] = "church"
    """An object of the canvas."""
    method: str = "rece"
    """The eraser: rece or uce."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("efface-demo")
    """Folder for the picture and the erasure."""
    seeds: int = 2
    """Pictures of each prompt."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = tyro.cli(Request, args=args, prog="efface demo", description=__doc__)
    from efface.api import erase
    from efface.canvas.score import drawn, neighbours_of, rates
    from efface.canvas.words import BENCHMARK, STYLES, caption, thing
    from efface.errors import UsageError
    from efface.loading import load
    from efface.model import Model
    from efface.report.sheet import save_picture, sheet

    if request.concept not in BENCHMARK:
        raise UsageError(
            f"the demo erases one of the canvas's benchmark objects, not {request.concept!r}: {', '.join(BENCHMARK)}."
        )
    request.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pipeline = load("emoji")
    say(f"erasing {request.concept!r} with {request.method}")
    erasure = erase(pipeline, request.concept, method=request.method)
    path = request.output / f"{request.concept.replace(' ', '-')}.safetensors"
    size = erasure.save(path)

    others = [name for name in BENCHMARK if name != request.concept]
    pairs = [(request.concept, style) for style in STYLES]
    pairs += [(name, STYLES[i % len(STYLES)]) for i, name in enumerate(others)]
    model, scores, pictures = Model(pipeline), {}, {}
    for when in progress(("before", "after"), "drawing and judging"):
        if when == "after":
            erasure.attach(pipeline)
        found = drawn(model, pairs, seeds=range(request.seeds))
        pictures[when], scores[when] = found, rates(found, request.concept)
    erasure.remove(pipeline)

    near, far = (
        neighbours_of(request.concept, 3),
        [n for n in others if thing(n).kind != thing(request.concept).kind][-3:],
    )
    shown = [(request.concept, s) for s in ("noto", "twemoji", "fluent", "outline")]
    shown += [(n, s) for n, s in pairs if n in (*near, *far)]
    rows = [[found.picture(pair, 0) for pair in shown] for found in pictures.values()]
    picture = request.output / "demo.png"
    save_picture(sheet(rows, columns=[caption(*pair) for pair in shown], labels=["before", "after"], cell=96), picture)

    before, after = scores["before"], scores["after"]
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
        "edit_seconds": erasure.provenance.notes["seconds"],
        "bytes": size,
        "picture": str(picture),
        "erasure": str(path),
        "seconds": round(time.perf_counter() - started, 1),
    }
    rows_ = [
        (f"{request.concept} detected", f"{before.erased:.0%} before, {after.erased:.0%} after"),
        ("other objects right", f"{before.others:.0%} before, {after.others:.0%} after"),
        ("styles right (others)", f"{before.styles:.0%} before, {after.styles:.0%} after"),
        ("erased pictures intact", f"{after.intact:.0%}"),
        ("edit", f"{data['edit_seconds']:.2f} s, {size:,} bytes"),
        ("picture", str(picture)),
        ("erasure", str(path)),
        ("everything", f"{data['seconds']} s"),
    ]
    result(data, as_json=request.json, rows=rows_)
