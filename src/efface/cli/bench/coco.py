"""COCO: CLIP score and FID of pictures of MS-COCO's captions, which no erasure should change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from efface.cli.bench import common, options

if TYPE_CHECKING:
    from efface.bench.protocols.coco import Coco


@dataclass(frozen=True)
class Request(options.OnFile):
    """Draw every caption with its own seed."""

    clip: Path | None = None
    """Folder of a CLIP checkpoint (openai/clip-vit-large-patch14, say), for the CLIP score."""
    features: str | None = None
    """What FID is taken over: inception (extra `fid`), or torchscript:FILE."""
    pictures: Path | None = None
    """Folder of MS-COCO's pictures, for FID against them; FID against the unerased model needs none."""


def build(request: Request, shared: options.Shared) -> Coco:
    """The protocol of a request."""
    from efface.bench.protocols.coco import Coco
    from efface.metrics.clip_score import ClipScore
    from efface.metrics.features import open_features

    file = options.prompt_file(request, shared)
    agreement = None if request.clip is None else ClipScore(request.clip)
    extract = None if request.features is None else open_features(request.features)
    return Coco(file, agreement, extract, pictures=request.pictures, limit=request.limit)


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="coco", summary=__doc__)
