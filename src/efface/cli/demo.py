"""The main job on an embedded model, with a picture: forget a church by every name, draw everything else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say_decisions

if TYPE_CHECKING:
    from efface.profiles.emoji.exam import Seen
    from efface.profiles.emoji.questions import Asked
    from efface.profiles.emoji.shares import Figures

SAID = {
    "ua": "gone by name",
    "ua_synonyms": "gone by other words",
    "ua_descriptions": "gone when described",
    "in_picture": "all else stays beside it",
    "ira_drop": "other objects lost",
    "cra_drop": "their styles lost",
    "empty": "empty places stay so",
    "intact": "erased pictures intact",
}
"""Figure -> how the table says it."""


@dataclass(frozen=True)
class Request:
    """Erase an object from the emoji canvas and show what changed."""

    concept: tyro.conf.Positional[str] = "church"
    """An object of the benchmark."""
    method: str = "rece"
    """An eraser, such as rece or uce."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("efface-demo")
    """Folder for the picture and the erasure."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface demo", description=__doc__)
    from efface.api.erase import plan_erasure
    from efface.cli.progress import ProgressBar
    from efface.errors import UsageError
    from efface.io import embedded
    from efface.io.images import save_picture
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.profiles.emoji.exam import figures, judged
    from efface.profiles.emoji.words import BENCHMARK
    from efface.report.decisions import erasing_rows
    from efface.report.grid import image_grid

    if request.concept not in BENCHMARK:
        raise UsageError(
            f"the demo erases one of the benchmark's objects, not {request.concept!r}: {', '.join(BENCHMARK)}."
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

    asked, model = questions(request.concept, options.seed or 0), Model(pipeline)
    prompts, seeds = [a.prompt for a in asked], [a.seed for a in asked]
    settings = {**embedded.sampling("emoji"), "side": options.size}
    with ProgressBar(f"drawing and judging {2 * len(asked)} pictures") as progress, drawing(progress, 2 * len(asked)):
        before = model.draw(prompts, seeds=seeds, **settings)
        with erasure.attached(pipeline):
            after = model.draw(prompts, seeds=seeds, **settings)
    was, now = judged(before, asked), judged(after, asked)

    columns = shown(asked, was)
    rows = [[pictures[i] for i in columns] for pictures in (before, after)]
    texts = [prompts[i] for i in columns]
    save_picture(image_grid(rows, columns=texts, labels=["before", "after"], cell=112), picture)
    report(
        request,
        figures(request.concept, asked, was, now),
        edit_seconds=erasure.provenance.notes["seconds"],
        bytes=size,
        picture=str(picture),
        erasure=str(path),
        seconds=round(time.perf_counter() - started, 1),
    )


def questions(concept: str, seed: int) -> list[Asked]:
    """What is drawn: the concept by its name, by held-out words and beside another object, other objects, empty places."""
    from efface.profiles.emoji.questions import Asked, by_name, by_words, empties, in_scenes
    from efface.profiles.emoji.words import BENCHMARK, STYLES, both

    other = "cat" if concept != "cat" else "dog"
    together = both(concept, other, "twemoji", "meadow")
    others = [(name, STYLES[i % len(STYLES)]) for i, name in enumerate(n for n in BENCHMARK if n != concept)]
    return [
        *by_name([(concept, style) for style in STYLES], [seed]),
        *by_words(concept, "synonym")[::3],
        *by_words(concept, "description")[::3],
        *(Asked("scene", together, seed + k, (concept, other), "twemoji", "meadow") for k in range(3)),
        *in_scenes(concept, 5),
        *empties()[::3],
        *by_name(others, [seed]),
    ]


ROLES = (
    ("name", True, 1), ("synonym", True, 2), ("description", True, 1), ("scene", True, 2), ("empty", False, 1), ("name", False, 3),
)  # fmt: skip
"""What stands side by side: role, whether the concept is in it, how many pictures."""


def shown(asked: list[Asked], was: list[Seen]) -> list[int]:
    """Which pictures stand side by side: of every role the first that the unerased model draws right, each by another word."""
    columns: list[int] = []
    for role, own, count in ROLES:
        of_role = [i for i, a in enumerate(asked) if a.role == role and (asked[0].things[0] in a.things) == own]
        right = [i for i in of_role if was[i].right()] or of_role
        columns += list({asked[i].prompt.split(" in ")[0]: i for i in reversed(right)}.values())[::-1][:count]
    return columns


def report(request: Request, found: Figures, **facts: Any) -> None:
    """Print the table, or the JSON object: every share with the number of pictures that the unerased model draws right."""
    shares = {name: getattr(found, name) for name in SAID}
    data = {"concept": request.concept, "method": request.method}
    data |= {name: {"share": s.hits / max(1, s.pictures), "pictures": s.pictures} for name, s in shares.items()} | facts
    rows = [
        *((SAID[name], str(share)) for name, share in shares.items()),
        ("edit", f"{facts['edit_seconds']:.2f} s, {facts['bytes']:,} bytes"),
        ("picture", facts["picture"]),
        ("erasure", facts["erasure"]),
        ("everything", f"{facts['seconds']} s"),
    ]
    result(data, as_json=request.json, rows=rows)
