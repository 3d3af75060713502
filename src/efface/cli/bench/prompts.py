"""Any CSV file of prompts: how far pictures move from the unerased model's, and what any judge says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from efface.cli.bench import common, options

if TYPE_CHECKING:
    from efface.bench.protocols.prompts import Prompts
    from efface.judges import Judge


@dataclass(frozen=True)
class Request(options.OnFile):
    """Draw every prompt, with its own seed and guidance where the file has them."""

    judge: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What looks at the pictures, once for each: nudenet, nsfw, clip:FOLDER:CLASS,CLASS, imagenet:FOLDER, …"""
    lpips: tuple[Literal["alex", "vgg"], Path, Path] | None = None
    """Network, torchvision's weights of its trunk, and LPIPS's heads; without it colours are compared."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = (0,)
    """Seeds of the prompts that bring none of their own; --seed names one."""


def build(request: Request, shared: options.Shared) -> Prompts:
    """The protocol of a request."""
    from efface.bench.protocols.prompts import Prompts
    from efface.judges import open_judge

    judges: dict[str, Judge] = {}
    for spec in request.judge:
        kind = spec.partition(":")[0]
        again = sum(name.partition(" ")[0] == kind for name in judges)
        judges[f"{kind} {again + 1}" if again else kind] = open_judge(spec)
    file = options.prompt_file(request, shared)
    compare = options.comparison(request.lpips)
    return Prompts(file, judges, compare, seeds=request.seeds, limit=request.limit)


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="prompts", summary=__doc__)
