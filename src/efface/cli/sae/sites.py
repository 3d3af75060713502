"""List the modules whose output can be read and edited."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result


@dataclass(frozen=True)
class Request:
    """List modules of the denoiser and layers of the text encoders, with what class they are."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    pattern: tyro.conf.Positional[str | None] = None
    """fnmatch pattern over their paths, in a text encoder where it begins with `text_encoder`; by default whole transformer blocks,
    on the emoji canvas its cross-attentions, and the layers of the text encoders."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface sae sites", description=__doc__, seeded=False)
    from efface.families.encoder_layers import usual_layer
    from efface.families.sites import text_layers
    from efface.models.model import Model
    from efface.profiles.base import profile_of

    pipeline = options.load(request.model)
    profile = profile_of(pipeline)
    model = Model(pipeline)
    encoders = model.family.text_encoders()
    sites = model.sites(request.pattern or profile.sae_pattern())
    sites += [] if request.pattern else text_layers(encoders)
    usual = {f"{name}.{usual_layer(encoder)}" for name, encoder in encoders.items()}
    marks = dict.fromkeys(profile.sae_sites(), " (default)") | dict.fromkeys(usual, " (default for text)")
    rows = [(site.name, type(site.module).__name__ + marks.get(site.name, "")) for site in sites]
    result({"sites": {site.name: type(site.module).__name__ for site in sites}}, as_json=request.json, rows=rows)
