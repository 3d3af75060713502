"""Export erasures and make sure that what was written does the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from efface.erasures import Erasure, attached_to
from efface.erasures.conditions import require_base
from efface.errors import EffaceError, UsageError, system_reason
from efface.export.check import Difference, PictureCheck, require_same_weights
from efface.export.config import EXPORTS, ExportConfig
from efface.export.edit import Edit
from efface.export.stand_in import stand_in
from efface.export.written import Written
from efface.models.model import Model


class ExportResult(NamedTuple):
    """An export that was compared with the erasures."""

    path: Path
    bytes: int
    error: float
    """Largest ‖read back − edited‖ / ‖edited − plain‖ of a weight (Frobenius norms)."""
    difference: Difference | None
    """From the attached erasures' pictures, in levels of 255; None where none were drawn."""
    effect: Difference | None
    """Difference that the erasures themselves make on the same pictures."""
    notes: dict[str, Any]
    """Rank, layers, tensors, by target."""


class Writer(Protocol):
    """Writes an edit of a pipeline's weights to a path, and says what it wrote and how it is read back."""

    def __call__(self, edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None, /) -> Written:
        """Write a file or a folder at `path`; `source` is the model's own checkpoint, where it is one file."""
        ...


def export(
    erasures: Erasure | Sequence[Erasure],
    pipeline: Any,
    output: str | Path,
    config: ExportConfig,
    *,
    source: str | Path | None = None,
) -> ExportResult:
    """Write erasures for other tools; the pipeline is left as it was.

    Args:
        erasures: one that weights can hold, or several, in the order in which they would be attached.
        pipeline: with the model that they were made for, nothing attached and no adapters loaded; unless
            `config.needs_all_weights`, only the weights that are edited are read.
        output: file, or folder for `peft`, `diffusers` and `component`; it takes its name only after the comparison.
        config: target and tolerances.
        source: the model's own checkpoint, for `single-file`.

    Raises:
        UsageError: the target lacks an argument that it needs, or the output exists.
        EffaceError: no weight does what an erasure does, something is attached, a key has no counterpart, or what was
            written is not the same.
    """
    output = Path(output)
    edit = _edit([erasures] if isinstance(erasures, Erasure) else list(erasures), pipeline, output, config)
    pictures = PictureCheck(edit, config) if config.pictures else None
    write: Writer = EXPORTS.load(config.to)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial{output.suffix}")
    try:
        written = write(edit, edit.model.pipeline, partial, config, None if source is None else Path(source))
        with edit.in_memory():
            error, difference = _compare(edit, written, pictures, config)
        files = [path for path in partial.rglob("*") if path.is_file()] if partial.is_dir() else [partial]
        size = sum(path.stat().st_size for path in files)
        os.replace(partial, output)
    except OSError as problem:
        raise EffaceError(f"{output} could not be written ({system_reason(problem)}).") from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
    return ExportResult(
        path=output,
        bytes=size,
        error=error,
        difference=difference,
        effect=None if pictures is None else pictures.effect,
        notes=written.notes,
    )


def _edit(erasures: list[Erasure], pipeline: Any, output: Path, config: ExportConfig) -> Edit:
    """What is to be written, after every check that needs no work."""
    if not erasures:
        raise UsageError("no erasure was given: name at least one to export.")
    if output.exists():
        raise UsageError(f"{output} exists: choose another name, or remove it first.")
    if attached_to(pipeline):
        raise EffaceError("an erasure is attached to the pipeline: remove it before exporting.")
    if getattr(pipeline, "get_list_adapters", dict)():
        raise EffaceError("adapters (LoRA) are loaded into the pipeline: unload them before exporting.")
    model = Model(pipeline)
    for erasure in erasures:
        require_base(erasure, model, config.force)
    edit = Edit([erasure.foldable() for erasure in erasures], model, config.scale)
    edit.model = model if config.needs_all_weights else Model(stand_in(pipeline))
    return edit


def _compare(
    edit: Edit, written: Written, pictures: PictureCheck | None, config: ExportConfig
) -> tuple[float, Difference | None]:
    """The largest error of a weight, and of pictures where they are drawn, over all tools that read what was written."""
    errors: list[float] = []
    differences: list[Difference] = []
    what = f"the export to {config.to}"
    for reading in written.readings:
        with reading as read:
            errors.append(require_same_weights(edit, written.names, read, config.tolerance, what))
            if pictures is not None:
                with read.pipeline() as pipeline:
                    differences.append(pictures.require_same(pipeline, what))
    if not errors:
        raise EffaceError(f"{what} cannot be read back and compared: nothing was written.")
    return max(errors), max(differences, key=lambda d: d.mean, default=None)
