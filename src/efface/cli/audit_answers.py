"""The audit of what a vision-language model says, as a part of the command audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efface.cli.output import result
from efface.cli.progress import ProgressBar
from efface.errors import UsageError
from efface.io.progress import part

if TYPE_CHECKING:
    from efface.cli.model_options import ModelOptions


def audit_what_is_said(
    model: str, files: Sequence[Path], images: Path | None, output: Path, options: ModelOptions, *, as_json: bool
) -> None:
    """Ask before and after each erasure, and print the shares.

    Args:
        model: folder of the model.
        files: erasures.
        images: folder of the pictures that are asked about.
        output: folder of `answers.json`; of several erasures, a folder in it for each.
        options: where the model computes.
        as_json: print one JSON object instead of a table.

    Raises:
        UsageError: no erasure or no pictures were given.
    """
    if not files or images is None:
        lacking = (
            "no erasure was given: name one with --erasure" if not files else "no pictures were given: name --images"
        )
        raise UsageError(f"{lacking}.")
    from efface.api.answers import audit_answers, read_shown
    from efface.erasures import Erasure

    shown = read_shown(images)
    erasures = [Erasure.from_pretrained(path) for path in files]
    vlm = options.load(model)
    data, rows = {}, []
    with ProgressBar("asking") as progress:
        for number, (path, erasure) in enumerate(zip(files, erasures, strict=True)):
            share = part(progress, number / len(files), (number + 1) / len(files), str(path))
            card = audit_answers(vlm, erasure, shown, progress=share)
            folder = output if len(files) == 1 else output / path.stem
            saved = card.save(folder)
            data[str(path)] = card.to_json() | {"file": str(saved)}
            rows += [(row.group, f"{row.before.value:.1%} → {row.after} of {row.after.pictures}") for row in card.rows]
            rows.append(("answers", str(saved)))
    result({"answers": data}, as_json=as_json, rows=rows)
