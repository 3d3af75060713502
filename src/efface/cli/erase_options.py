"""What `efface erase` is asked: its own options, and those of the method."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from efface.cli.arguments import named_options, parse_parts
from efface.erasers import ERASERS
from efface.erasers.base import Retaining
from efface.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Request:
    """What every method is asked; its own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    concepts: tyro.conf.Positional[tuple[str, ...]]
    """Names or presets (nudity, unsafe, imagenette, artists) of what is to be erased."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The erasure's file; CONCEPT.safetensors by default."""
    kind: Literal["object", "style", "person", "explicit", "abstract"] | None = None
    """Kind of the concepts, where the name alone does not say."""
    anchor: str | None = None
    """What takes the concept's place; the method's default otherwise."""
    preview: Path | None = None
    """Also write a sheet of pictures before and after."""
    steps: int | None = None
    """Denoising steps of the preview."""
    judge: str | None = None
    """Let a judge look at pictures, for example nudenet (RECE's paper) or clip:FOLDER:church,house, or `own` for the one that
    the model brings (the emoji canvas does): RECE keeps its best epoch, SAeUron calibrates (--calibrate)."""
    plan: bool = False
    """Only say what was decided and what it will cost; nothing is erased or written."""
    as_published: bool = False
    """The paper's own settings and its public code's traps: nothing retained but its neutral prompt (RECE, UCE), the error
    term with the wrong sign (SAeUron), no settings of the canvas."""
    json: bool = False
    """Print one JSON object instead of a table."""


def parse(method: str, args: list[str]) -> tuple[Request, dict[str, Any]]:
    """The request, and those options of the method that the user named."""
    eraser = ERASERS.load(method)
    parts = {"general": Request, method: eraser.Config}
    request, config = parse_parts(parts, args, prog=f"efface erase {method}", description=eraser.__doc__)
    options = named_options(config, args)
    if "keep" in options:
        options["keep"] = _prompts(options["keep"])
    elif request.as_published and isinstance(config, Retaining):
        options["keep"] = ()
    return request, options


def _prompts(words: tuple[str, ...] | None) -> tuple[str, ...]:
    """Prompts to retain: the words themselves, the lines of a .txt file, or none for the word `none`."""
    if not words or words == ("none",):
        return ()
    kept: list[str] = []
    for item in words:
        path = Path(item)
        if path.suffix != ".txt":
            kept.append(item)
        elif path.is_file():
            kept += [line.strip() for line in path.read_text().splitlines() if line.strip()]
        else:
            raise UsageError(f"{item} is not a file; give --keep prompts, a .txt file with one prompt a line, or none.")
    return tuple(kept)
