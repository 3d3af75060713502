"""List the modules whose output can be read and edited."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result


@dataclass(frozen=True)
class Request:
    """List modules of the denoiser, with what class they are."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    pattern: tyro.conf.Positional[str | None] = None
    """fnmatch pattern over their paths; by default whole transformer blocks, on the emoji canvas its cross-attentions."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface sae sites", description=__doc__, seeded=False)
    from efface.models.model import Model
    from efface.profiles.base import profile_of

    pipeline = options.load(request.model)
    profile = profile_of(pipeline)
    sites = Model(pipeline).sites(request.pattern or profile.sae_pattern())
    default = " (default)"
    rows = [(s.name, type(s.module).__name__ + default * (s.name in profile.sae_sites())) for s in sites]
    result({"sites": {site.name: type(site.module).__name__ for site in sites}}, as_json=request.json, rows=rows)
