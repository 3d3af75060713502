"""Artists: how far pictures move from the unedited model's, of the erased artist (LPIPS_e) and of the others (LPIPS_u)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from efface.cli.bench import common, options

if TYPE_CHECKING:
    from efface.bench.protocols.artists import Artists

PUBLISHED_SIDE = 64
"""Pixels to which the public codes of ESD, UCE and RECE resize both pictures before LPIPS."""


@dataclass(frozen=True)
class Request(options.OnFile):
    """Draw every prompt with its own seed, and compare it with the unerased model's picture."""

    lpips: tuple[Literal["alex", "vgg"], Path, Path] | None = None
    """Network, torchvision's weights of its trunk, and LPIPS's heads; without it colours are compared."""
    as_published: bool = False
    """Compare at 64 px, as the public codes do, instead of the pictures' own size."""


def build(request: Request, shared: options.Shared) -> Artists:
    """The protocol of a request."""
    from efface.bench.protocols.artists import Artists

    compare = options.comparison(request.lpips, PUBLISHED_SIDE if request.as_published else None)
    return Artists(options.prompt_file(request, shared), compare, limit=request.limit)


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="artists", summary=__doc__)
