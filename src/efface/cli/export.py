"""Write an erasure for other tools: LoRA, diffusers folder, single-file checkpoint, patch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.arguments import parse
from efface.cli.output import result, say
from efface.export.config import ExportConfig


@dataclass(frozen=True, kw_only=True)
class Request(ExportConfig):
    """Export an erasure; what was written is read back and its pictures are compared before it takes its name."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ERASURE")]
    """The erasure."""
    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint (which `single-file` needs)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE|FOLDER")]
    """File to write, or folder for `diffusers` and `component`."""
    config: str | None = None
    """For a checkpoint: a diffusers folder or hub id that says how its components are built."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface export", description=__doc__)
    from efface.erasures import Erasure
    from efface.export import export
    from efface.models.load import load

    erasure = Erasure.from_pretrained(request.file)
    pipeline = load(request.model, config=request.config)
    settings = ExportConfig(**{field.name: getattr(request, field.name) for field in fields(ExportConfig)})
    say(f"exporting to {request.to}, reading it back and comparing pictures")
    done = export(erasure, pipeline, request.output, settings, source=request.model)
    data = {
        "output": str(done.path), "to": request.to, "bytes": done.bytes, **done.notes,
        "difference": done.difference._asdict(), "effect": done.effect._asdict(),
    }  # fmt: skip
    rows = [
        ("written", f"{done.path} ({done.bytes:,} bytes)"),
        *((name, f"{value:.2g}" if isinstance(value, float) else str(value)) for name, value in done.notes.items()),
        ("difference", f"{done.difference.mean:.4f} levels of 255 on average, {done.difference.largest:.0f} at most"),
        ("the erasure itself", f"{done.effect.mean:.4f} on average, {done.effect.largest:.0f} at most"),
    ]
    result(data, as_json=request.json, rows=rows)
