"""What `efface erase` is asked: its own options, and those of the method."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from efface.cli.arguments import named_options, parse_parts
from efface.cli.model_options import HEADING, DrawingOptions, own_options, with_pictures
from efface.erasers import ERASERS
from efface.errors import EffaceError, UsageError


@dataclasses.dataclass(frozen=True)
class Request:
    """What every method is asked; its own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    concepts: tyro.conf.Positional[tuple[str, ...]]
    """Names or presets (nudity, unsafe, imagenette, artists) of what is to be erased."""
    listed: Annotated[Path | None, tyro.conf.arg(name="concepts")] = None
    """A file with more of them, one a line or as CSV: name, kind, anchor, aliases (separated by semicolons)."""
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
    """What the method's authors ran, traps of their public code included: RECE's first stage, and nothing retained but its neutral
    prompt and, for styles, all other artists; UCE's last tokens; SAeUron's error term, shared latents and statistics; no settings
    of the canvas."""
    json: bool = False
    """Print one JSON object instead of a table."""


def parse(method: str, args: list[str]) -> tuple[Request, DrawingOptions, dict[str, Any]]:
    """The request, the model's options, and those of the method that the user named."""
    eraser = ERASERS.load(method)
    own = own_options(method, eraser.Config)
    parts = {"general": Request, HEADING: DrawingOptions, method: eraser.Config}
    request, model, config = parse_parts(
        parts, args, prog=f"efface erase {method}", description=eraser.__doc__, renamed=own
    )
    options = with_pictures(named_options(config, args, own), config, model)
    if "keep" in options:
        options["keep"] = _prompts(options["keep"])
    return request, model, options


def _prompts(words: tuple[str, ...] | None) -> tuple[str, ...]:
    """Prompts to retain: the words themselves, what files hold in their place, or none for the word `none`."""
    if not words or words == ("none",):
        return ()
    return tuple(dict.fromkeys(prompt for item in words for prompt in _read(item)))


def _read(item: str) -> list[str]:
    """A prompt itself; the lines of a .txt file, or a column of a .csv file, `prompt` unless it is named as FILE.csv:COLUMN."""
    name, colon, column = item.partition(".csv:")
    path = Path(f"{name}.csv" if colon else item)
    if path.suffix.lower() not in (".txt", ".csv"):
        return [item]
    if not path.is_file():
        raise UsageError(
            f"{path} is not a file; give --keep prompts, a .txt file with one prompt a line, a .csv file with a column 'prompt' "
            "(or FILE.csv:COLUMN), or none."
        )
    if path.suffix.lower() == ".csv":
        from efface.bench.prompt_files import read_prompts

        file = read_prompts(path, skip_malformed=True)
        if file.skipped:
            raise EffaceError(f"{path} is malformed: {file.skipped[0]}; correct the file.")
        texts = file.column(column) if column else [row.prompt for row in file.rows]
    else:
        try:
            texts = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise EffaceError(f"{path} could not be read as text ({error}): save it as UTF-8.") from error
    return [text.strip() for text in texts if text.strip()]
