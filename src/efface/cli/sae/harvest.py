"""Write activations to shards on disk, to train from them later; resumes when run again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say, say_decisions
from efface.cli.progress import ProgressBar


@dataclass(frozen=True)
class Request:
    """Draw pictures and keep what the sites give."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    sites: tuple[str, ...] = ()
    """fnmatch patterns over modules; the canvas's, or the paper's two blocks."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A .txt file with one prompt a line; `canvas` for the canvas's captions."""
    images: int | None = None
    """Pictures to draw; one for each prompt by default."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("activations")
    """Where the harvest's folder is made; its name is the hash of everything that determines it."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    every: int = 1
    """Read every n-th step."""
    half: Literal["conditional", "unconditional", "both"] = "conditional"
    """Half of the guided batch that is read."""
    difference: bool = False
    """Read output − input of the sites."""
    shard: int = 32
    """Pictures of a shard."""
    estimate: bool = False
    """Only say what it will cost."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface sae harvest", description=__doc__)
    from efface.cli.sae.common import harvest_decisions, prompts_named, sampling_of, sites_named
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.sae import shards
    from efface.sae.harvest import HarvestConfig

    pipeline = options.load(request.model, stored=True)
    model = Model(pipeline)
    available = prompts_named(request.prompts, pipeline)
    prompts = [available[i % len(available)] for i in range(request.images or len(available))]
    config = HarvestConfig(
        sites_named(request.sites, pipeline), **sampling_of(pipeline, request.steps, request.guidance, options), every=request.every,
        half=request.half, difference=request.difference, batch=request.shard,
    )  # fmt: skip
    say_decisions(drawing_rows(harvest_decisions(pipeline, config)))
    cost = shards.expected_cost(model, prompts, config)
    say(
        f"{cost.images} pictures, {cost.vectors:,} vectors a site, {cost.bytes / 1e6:,.0f} MB, about {cost.seconds:,.0f} s"
    )
    folder = shards.folder_of(request.output, shards.plan(model, prompts, config))
    data = {"folder": str(folder)} | cost._asdict()
    if not request.estimate:
        with ProgressBar(f"drawing {len(prompts)} pictures") as progress, drawing(progress, len(prompts)):
            data["written"] = sum(1 for _ in shards.harvest(model, prompts, config, request.output))
    result(data, as_json=request.json, rows=[(k, str(v)) for k, v in data.items()])
