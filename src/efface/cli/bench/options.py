"""Options of the protocols of a user's model, and what they open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from efface.cli.model_options import DrawingOptions
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.bench.prompt_files import PromptFile
    from efface.metrics.base import Comparison


@dataclass(frozen=True)
class OnModel:
    """A protocol on a user's model."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""


@dataclass(frozen=True)
class OnFile(OnModel):
    """A protocol on a user's model and a file of prompts."""

    prompts: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """CSV file of prompts, in the layout in which it was published."""
    skip_malformed: bool = False
    """Leave malformed rows out, and say which."""
    limit: int | None = None
    """Draw at most so many pictures of each model, evenly spaced over the file."""


@dataclass(frozen=True)
class Shared(DrawingOptions):
    """Options of every protocol; the unerased model is always measured too."""

    erasure: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """An erasure file, once for each; every one is measured alone."""
    concept: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What each erasure erases in the protocol's words, where its file calls it otherwise; once for each, in their order."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """Folder of the run, which goes on where it stopped; PROTOCOL-run by default."""
    steps: int | None = None
    """Denoising steps; the published number by default."""
    guidance: float | None = None
    """Guidance scale of prompts that bring none; the published one by default."""
    save_images: Path | None = None
    """Folder where pictures are kept as PNG files as they are drawn; those that were drawn before are not drawn again."""
    plan: bool = False
    """Only say what it will cost; without erasures, for as many as a method makes in the published protocol."""
    gpus: int = 1
    """Devices such as this one that the plan divides the work over."""
    format: Literal["markdown", "csv", "json"] = "markdown"
    """Form of the table."""
    json: bool = False
    """Print one JSON object instead of a table."""


def prompt_file(file: OnFile, shared: Shared) -> PromptFile:
    """The file of a request's prompts, those without a seed with the one that was named."""
    from efface.bench.prompt_files import read_prompts

    if file.limit is not None and file.limit < 1:
        raise UsageError(f"limit is {file.limit}; expected at least 1.")
    read = read_prompts(file.prompts, skip_malformed=file.skip_malformed)
    if shared.seed is None:
        return read
    if all(row.seed is not None for row in read.rows):
        raise UsageError(f"seed is {shared.seed}, but every prompt of {file.prompts} brings its own: leave it out.")
    rows = tuple(row if row.seed is not None else row._replace(seed=shared.seed) for row in read.rows)
    return read._replace(rows=rows)


def comparison(lpips: tuple[Literal["alex", "vgg"], Path, Path] | None, side: int | None = None) -> Comparison:
    """LPIPS from its files, or without them the mean difference of colours."""
    if lpips is None:
        from efface.metrics.pixels import Pixels

        return Pixels()
    from efface.metrics.lpips import Lpips

    network, trunk, heads = lpips
    return Lpips(network, trunk, heads, side=side)


def check(shared: Shared) -> None:
    """Refuses numbers below 1; raises UsageError."""
    least = {"steps": shared.steps, "gpus": shared.gpus}
    for name, value in least.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1.")
