"""Imagenette: how often pictures still show an erased class, and how often the other nine show theirs (top-1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.cli.bench import common, options
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.bench.protocols.imagenette import Imagenette


@dataclass(frozen=True)
class Request(options.OnFile):
    """Draw every prompt with its own seed, and name the class of each picture."""

    judge: str | None = None
    """A classifier that knows the file's classes: imagenet:FOLDER (ResNet-50 as published), classifier:FOLDER, clip:…"""


def build(request: Request, shared: options.Shared) -> Imagenette:
    """The protocol of a request."""
    if request.judge is None:
        raise UsageError("no judge was given: name a classifier, --judge imagenet:FOLDER (microsoft/resnet-50, say).")
    from efface.bench.protocols.imagenette import Imagenette
    from efface.judges import open_judge

    return Imagenette(options.prompt_file(request, shared), open_judge(request.judge), limit=request.limit)


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="imagenette", summary=__doc__)
