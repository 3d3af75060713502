"""List the modules whose output can be read and edited."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from efface.cli.output import result


@dataclass(frozen=True)
class Request:
    """List modules of the denoiser, with what class they are."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    pattern: tyro.conf.Positional[str] = "*attentions.?"
    """fnmatch pattern over their paths; whole transformer blocks by default."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = tyro.cli(Request, args=args, prog="efface sae sites", description=__doc__)
    from efface.loading import load
    from efface.model import Model

    found = Model(load(request.model)).sites(request.pattern)
    rows = [(site.name, type(site.module).__name__) for site in found]
    result({"sites": dict(rows)}, as_json=request.json, rows=rows)
