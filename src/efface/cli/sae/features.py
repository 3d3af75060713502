"""Take the statistics of an autoencoder's latents by concept, and say which latents speak of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import progress, result, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError


@dataclass(frozen=True)
class Request:
    """Draw pictures of many concepts and write `statistics.safetensors` into the autoencoders' folders."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    coder: tyro.conf.Positional[str]
    """Folder of a training run, with a folder for each site."""
    concepts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file {"kind": {"concept": ["prompt", …]}}; the canvas's benchmark by default."""
    seeds: int = 2
    """Pictures of every prompt."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface sae features", description=__doc__)
    from efface.api.decisions import about_model
    from efface.cli.sae.common import labelled, sampling_of
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.sae.files import load_sae
    from efface.sae.harvest import HarvestConfig
    from efface.sae.statistics import statistics

    pipeline = options.load(request.model)
    folders = sorted(p.parent for p in Path(request.coder).glob("*/cfg.json"))
    coders = {folder.name: load_sae(folder) for folder in folders}
    if not coders:
        raise UsageError(f"{request.coder} holds no autoencoders; expected the folder of `efface sae train`.")
    pictures, kinds = labelled(request.concepts, request.seeds, pipeline, options.seed)
    config = HarvestConfig(tuple(coders), **sampling_of(pipeline, request.steps, request.guidance, options))
    decided = {"steps": config.steps, "guidance": config.guidance, "sites": list(coders), "seeds": request.seeds}
    say_decisions(
        drawing_rows(about_model(pipeline, config.side) | decided | {"pictures": len(pictures), "concepts": len(kinds)})
    )
    with ProgressBar(f"drawing {len(pictures)} pictures of {len(kinds)} concepts") as bar, drawing(bar, len(pictures)):
        by_site = statistics(Model(pipeline), coders, pictures, kinds, config)
    rows: list[tuple[str, str]] = []
    data: dict[str, Any] = {"pictures": len(pictures), "sites": {}}
    for folder in progress(folders, "writing"):
        measured = by_site[folder.name]
        measured.save(folder / "statistics.safetensors")
        best = {c: measured.scores(c).mean(0).topk(3).indices.tolist() for c in measured.concepts}
        data["sites"][folder.name] = best
        rows += [(f"{folder.name} {c}", f"latents {', '.join(map(str, latents))}") for c, latents in best.items()]
    result(data, as_json=request.json, rows=rows)
