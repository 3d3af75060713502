"""Try to bring an erased concept back; the attack is a subcommand with its own options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.attack_options import AttackOptions, decide, parse, print_findings, print_plan, to_arguments
from efface.cli.output import say_remarks
from efface.cli.progress import ProgressBar
from efface.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Request(AttackOptions):
    """What every attack is asked; its own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    concept: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[CONCEPT]")] = None
    """What is to be brought back; the first erasure's concept by default."""
    erasure: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """An erasure file, once for each, in the order in which they are attached."""
    original: str | None = None
    """The model before it was erased, where MODEL itself was changed by training."""
    pictures: Path | None = None
    """A folder of pictures that show the concept, for leak-sr, leak-img2img and leak-inpaint to start from; pipelines that draw
    from more than text need them."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("attack")
    """Folder for findings.json, sheet.png and everything on the way; resumes if it holds an unfinished run."""


def main(args: list[str]) -> None:
    """Run the command."""
    name, request, model, options = parse("attack", __doc__ or "", Request, args)
    if not request.erasure and request.original is None:
        raise UsageError("no erasure was given: name its file with --erasure, or the unerased model with --original.")
    from efface.api.attack import attack
    from efface.api.resolve import concept_of
    from efface.erasures import Erasure

    erasures = [Erasure.from_pretrained(path) for path in request.erasure]
    pipeline = model.load(request.model)
    say_remarks(filter(None, [request.concept]), pipeline)
    target = concept_of(request.concept, erasures, pipeline)
    arguments = to_arguments(request, model, pipeline, target)
    pictures = [] if request.pictures is None else image_files(request.pictures)
    decisions = decide(name, request, options, arguments, pipeline, target)
    if request.plan:
        print_plan(decisions, request, arguments, pipeline, target)
        return
    original = None if request.original is None else model.load(request.original)
    with ProgressBar(f"attacking with {name}") as progress:
        findings = attack(
            pipeline, erasures, target, method=name, budget=request.budget, original=original,
            pictures=pictures, folder=request.output, progress=progress, **arguments, **options,
        )  # fmt: skip
    print_findings(findings, request.output, request.json)


def image_files(folder: Path) -> list[Path]:
    """PNG and JPEG files of a folder by name; raises UsageError where there is none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not found:
        raise UsageError(f"{folder} holds no picture; expected a folder with PNG or JPEG files.")
    return found
