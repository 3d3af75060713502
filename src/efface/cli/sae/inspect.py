"""Write static pages on the latents: top pictures with heat maps, timesteps, density, concepts, regions; of text top prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from efface.heads.names import Name
    from efface.models.model import Model
    from efface.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Request:
    """Draw labelled pictures and write pages that open without a server."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    coder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[FOLDER]")] = "emoji"
    """Folder of a run or of one autoencoder; `emoji` is the canvas's own."""
    site: str | None = None
    """The module; the canvas's for objects by default. Of a layer of a text encoder (`text_encoder` for the usual one) prompts with
    the words marked are shown, and nothing is drawn."""
    latents: Annotated[tuple[int, ...], tyro.conf.arg(metavar="LATENT [LATENT ...]")] = ()
    """Latents that get a page; by default the best two of every concept."""
    concepts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file {"kind": {"concept": ["prompt", …]}}; the canvas's benchmark by default."""
    seeds: int = 1
    """Pictures of every prompt."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    names: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the latents' names (`efface sae name -o`); by default those in the autoencoder's folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("latents")
    """Folder for the pages."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface sae inspect", description=__doc__)
    from efface.api.decisions import about_model
    from efface.cli.sae.common import labelled, sampling_of, sites_named
    from efface.families.sites import TEXT
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.sae.dashboard import feature_dashboard
    from efface.sae.harvest import HarvestConfig
    from efface.sae.lookup import open_sae
    from efface.sae.pages import write_pages

    pipeline = options.load(request.model)
    model = Model(pipeline)
    site = model.sites(request.site or sites_named((), pipeline)[0])[0].name
    coder, sha256 = open_sae(request.coder, site)
    if wrong := [latent for latent in request.latents if not 0 <= latent < coder.config.latents]:
        raise UsageError(f"the autoencoder has no latent {wrong[0]}: expected 0 to {coder.config.latents - 1}.")
    if site.startswith(TEXT):
        _inspect_text(request, pipeline, model, coder, site)
        return
    named = _names(request, site, sha256)
    labels, kinds = labelled(request.concepts, request.seeds, pipeline, options.seed)
    config = HarvestConfig((site,), **sampling_of(pipeline, request.steps, request.guidance, options))
    decided = {"steps": config.steps, "guidance": config.guidance, "site": site, "seeds": request.seeds}
    say_decisions(drawing_rows(about_model(pipeline, config.side) | decided))
    with ProgressBar(f"drawing {len(labels)} pictures") as progress, drawing(progress, len(labels)):
        dashboard = feature_dashboard(model, site, coder, labels, config)
    best = best_latents(dashboard, list(kinds))
    latents = list(request.latents) or sorted(best)
    names = {latent: named[latent] for latent in latents} if named else {}
    index = write_pages(dashboard, latents, request.output, scores=best, names=names)
    rows = [("pages", str(index)), ("latents", str(len(latents))), ("pictures", str(len(labels)))]
    rows += [(f"latent {latent}", str(name)) for latent, name in names.items()]
    data = {"index": str(index), "latents": latents, "pictures": len(labels)}
    data["names"] = {str(latent): name.to_json() for latent, name in names.items()}
    result(data, as_json=request.json, rows=rows)


def _names(request: Request, site: str, sha256: str) -> Sequence[Name]:
    """The names of a site's latents; none, and a line that says so, where nobody gave them any.

    Raises:
        UsageError: the folder that was named holds none.
    """
    from efface.sae.latent_names import load_names, names_folder

    folder = names_folder(request.names, request.coder, site)
    found = load_names(folder, sha256)
    if found is None and request.names is not None:
        raise UsageError(f"{folder} holds no names of {site}: expected a folder that `efface sae name` wrote.")
    if found is None:
        say("the latents have no names yet: `efface sae name` gives them some")
    return () if found is None else found.names


def _inspect_text(request: Request, pipeline: Any, model: Model, sae: SparseAutoencoder, site: str) -> None:
    """Pages on the latents of a layer of a text encoder."""
    from efface.cli.sae.common import labels_named
    from efface.sae.harvest import sites_of
    from efface.sae.text_dashboard import text_dashboard, write_text_pages
    from efface.sae.text_states import TextSites

    if request.names is not None:
        raise UsageError(
            "names are of latents that are read while pictures are drawn: leave --names out for layers of text encoders."
        )
    labels = labels_named(request.concepts, pipeline)
    dashboard = text_dashboard(TextSites(model, sites_of(model, (site,))), sae, labels.shows)
    latents = list(request.latents) or sorted({i for name in dashboard.peaks for i in dashboard.best(name)})
    index = write_text_pages(dashboard, latents, request.output)
    rows = [("pages", str(index)), ("latents", str(len(latents))), ("prompts", str(dashboard.prompts))]
    data = {"index": str(index), "latents": latents, "prompts": dashboard.prompts}
    result(data, as_json=request.json, rows=rows)


def best_latents(dashboard: object, concepts: list[str], count: int = 2) -> dict[int, list[tuple[str, float]]]:
    """Latent -> the concepts that score it highest, for the best latents of every concept (published score, all timesteps)."""
    from efface.sae.dashboard import FeatureDashboard

    assert isinstance(dashboard, FeatureDashboard)
    scores: dict[int, list[tuple[str, float]]] = {}
    for concept in concepts:
        best = dashboard.scores(concept).topk(count)
        for value, latent in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            scores.setdefault(latent, []).append((concept, value))
    return scores
