"""What an erasure file is: concepts, method, base model, size, provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.arguments import parse
from efface.cli.output import result


@dataclass(frozen=True)
class Request:
    """Read an erasure file, check it, and say what it is."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ERASURE")]
    """The erasure: a file, a folder, or OWNER/NAME on the Hugging Face Hub."""
    json: bool = False
    """Print everything as one JSON object."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface show", description=__doc__)
    from efface.erasures.summary import summary_in
    from efface.io.hub import erasure_file
    from efface.report.decisions import base_of, erasing_rows

    file = erasure_file(request.file.as_posix())
    data = summary_in(file)
    data["file_bytes"] = file.stat().st_size
    rows = [
        ("method", data["method"] + (f" (plugin: {data['plugin']})" if "plugin" in data else "")),
        ("kind", f"{data['kind']} (file format {data['format']})"),
        *erasing_rows(data),
        *(
            (f"latents for {name}", ", ".join(f"{c['latent']} at {c['levels']} levels" for c in chosen[:6]))
            for name, chosen in data["notes"].get("chosen", {}).items()
        ),
        ("base model", base_of(data["base"])),
        ("tensors", ", ".join(f"{k} {v} {data['sha256'][k][:12]}" for k, v in list(data["tensors"].items())[:4])),
        ("made in", f"{data['notes'].get('seconds', '?')} s"),
        ("size", f"{data['file_bytes']:,} bytes"),
        ("versions", ", ".join(f"{k} {v}" for k, v in data["versions"].items())),
    ]
    result(data, as_json=request.json, rows=rows)
