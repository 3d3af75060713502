"""Export an erasure and make sure that what was written does the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from efface.erasures import Erasure, attached_to
from efface.errors import EffaceError, UsageError, system_reason
from efface.export.check import Check, Difference, difference
from efface.export.config import EXPORTS, ExportConfig


class ExportResult(NamedTuple):
    """An export that was compared with the attached erasure."""

    path: Path
    bytes: int
    difference: Difference
    """From the attached erasure's pictures, in levels of 255."""
    effect: Difference
    """Difference that the erasure itself makes on the same pictures."""
    notes: dict[str, Any]
    """Rank, layers, tensors, by target."""


class Writer(Protocol):
    """Writes an erasure to a path, reads it back, draws the check's pictures from it, and says what it wrote."""

    def __call__(
        self, erasure: Erasure, pipeline: Any, path: Path, config: ExportConfig, check: Check, source: Path | None, /
    ) -> tuple[Any, dict[str, Any]]:
        """The pictures (batch height width 3) and notes for the user."""
        ...


def export(
    erasure: Erasure, pipeline: Any, output: str | Path, config: ExportConfig, *, source: str | Path | None = None
) -> ExportResult:
    """Write an erasure for other tools; the pipeline is left as it was.

    Args:
        erasure: one that weights can hold.
        pipeline: with the model that it was made for, nothing attached and no adapters loaded.
        output: file, or folder for `diffusers` and `component`; it takes its name only after the pictures were compared.
        config: target and tolerances.
        source: the model's own checkpoint, for `single-file`.

    Raises:
        UsageError: the target lacks an argument that it needs, or the output exists.
        EffaceError: no weight does what the erasure does, something is attached, a key has no counterpart, or the
            pictures differ.
    """
    output = Path(output)
    if output.exists():
        raise UsageError(f"{output} exists: choose another name, or remove it first.")
    if attached_to(pipeline):
        raise EffaceError("an erasure is attached to the pipeline: remove it before exporting.")
    if getattr(pipeline, "get_list_adapters", dict)():
        raise EffaceError("adapters (LoRA) are loaded into the pipeline: unload them before exporting.")
    erasure.targets()  # raises where no weight does the same
    check = Check(erasure, config)
    plain = check.draw(pipeline)
    with erasure.attached(pipeline, scale=config.scale, force=config.force):
        expected = check.draw(pipeline)
    write: Writer = EXPORTS.load(config.to)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial{output.suffix}")
    try:
        pictures, notes = write(erasure, pipeline, partial, config, check, None if source is None else Path(source))
        measured = check.require_same(expected, pictures, f"the export to {config.to}")
        files = [path for path in partial.rglob("*") if path.is_file()] if partial.is_dir() else [partial]
        size = sum(path.stat().st_size for path in files)
        os.replace(partial, output)
    except OSError as error:
        raise EffaceError(f"{output} could not be written ({system_reason(error)}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
    effect = difference(expected, plain)
    return ExportResult(path=output, bytes=size, difference=measured, effect=effect, notes=notes)
