"""Multiply a latent, add to it, or paint it on a region, with pictures before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError


@dataclass(frozen=True)
class Request:
    """Steer one latent while prompts are drawn."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    latent: tyro.conf.Positional[int]
    """Number of the latent."""
    prompts: tyro.conf.Positional[tuple[str, ...]]
    """One or more prompts."""
    coder: str = "emoji"
    """Folder of a run or of one autoencoder; `emoji` is the canvas's own."""
    site: str | None = None
    """The module; the canvas's for objects by default."""
    multiply: float = 1.0
    """Factor where the latent is active."""
    add: float = 0.0
    """Added everywhere in the region, in units of activations."""
    region: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom as shares of the picture; all of it by default."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("steer_latent.png")
    """PNG file to write."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface sae steer", description=__doc__)
    if not request.prompts:
        raise UsageError("no prompt was given: name what to draw, for example 'a cat in noto style'.")
    from efface.api.decisions import about_drawing
    from efface.cli.sae.common import sites_named
    from efface.io.images import save_picture
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.report.grid import image_grid
    from efface.sae.lookup import open_sae
    from efface.steering.steer import Region, steer_latent

    pipeline = options.load(request.model)
    model = Model(pipeline)
    site = model.sites(request.site or sites_named((), pipeline)[0])[0].name
    coder, _ = open_sae(request.coder, site)
    seeds = [options.seed or 0] * len(request.prompts)
    region = Region(*request.region) if request.region else None
    sampling = options.sampling(request.steps, request.guidance)
    settings = sampling.settings(pipeline)
    say_decisions(drawing_rows(about_drawing(pipeline, sampling, seed=seeds[0], site=site, latent=request.latent)))
    _, height, width = model.family.latent_shape(options.size)
    change = {"multiply": request.multiply, "add": request.add}
    steered = steer_latent(model, site, coder, request.latent, **change, region=region, ratio=height / width)
    with ProgressBar(f"drawing {2 * len(seeds)} pictures") as progress, drawing(progress, 2 * len(seeds)):
        before = model.draw(request.prompts, seeds=seeds, **settings)
        with steered:
            after = model.draw(request.prompts, seeds=seeds, **settings)
    save_picture(image_grid([before, after], columns=request.prompts, labels=["before", "after"]), request.output)
    data = {"output": str(request.output), "site": site, "latent": request.latent}
    result(data, as_json=request.json, rows=[(k, str(v)) for k, v in data.items()])
