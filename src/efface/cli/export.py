"""Write erasures for other tools: LoRA, peft adapter, diffusers folder, single-file checkpoint, patch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.arguments import HIDDEN, parse_parts
from efface.cli.model_options import HEADING, DrawingOptions
from efface.cli.output import result, say
from efface.errors import UsageError
from efface.export.config import ExportConfig


@dataclass(frozen=True)
class Request:
    """Export erasures; what was written is read back and compared with them before it takes its name."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ERASURE [ERASURE ...] MODEL")]
    """Erasure files, in the order in which they would be attached, and last the model: `emoji`, a hub id, a diffusers folder, or
    a .safetensors checkpoint (which `single-file` needs)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE|FOLDER")]
    """File to write, or folder for `peft`, `diffusers` and `component`."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    parts = {"general": Request, HEADING: DrawingOptions, "export": ExportConfig}
    renamed = {"side": HIDDEN, "seed": HIDDEN}
    request, options, config = parse_parts(parts, args, prog="efface export", description=__doc__, renamed=renamed)
    if len(request.files) < 2:
        raise UsageError("an erasure and a model are needed: `efface export ERASURE [ERASURE ...] MODEL --to … -o …`.")
    from efface.erasures import Erasure
    from efface.export import export

    *files, model = request.files
    erasures = [Erasure.from_pretrained(file) for file in files]
    settings = replace(config, side=options.size, seed=options.seed or 0)
    text_only = not settings.needs_all_weights and all(erasure.acts_on == "text" for erasure in erasures)
    pipeline = options.load(model, text_only=text_only)
    pictures = " and pictures" if settings.pictures else ""
    say(f"exporting to {settings.to}, reading it back and comparing matrices{pictures}")
    done = export(erasures, pipeline, request.output, settings, source=model)
    data = {
        "output": str(done.path), "to": settings.to, "bytes": done.bytes, "error": done.error, **done.notes,
        "difference": done.difference and done.difference._asdict(), "effect": done.effect and done.effect._asdict(),
    }  # fmt: skip
    rows = [
        ("written", f"{done.path} ({done.bytes:,} bytes)"),
        *((name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in done.notes.items()),
        ("error", f"{done.error:.2g} of what the erasure changes in a matrix, at most"),
    ]
    if done.difference and done.effect:
        rows += [
            ("pictures", f"{done.difference.mean:.4f} levels of 255 on average, {done.difference.largest:.0f} at most"),
            ("the erasure itself", f"{done.effect.mean:.4f} on average, {done.effect.largest:.0f} at most"),
        ]
    result(data, as_json=request.json, rows=rows)
