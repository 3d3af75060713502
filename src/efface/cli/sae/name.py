"""Name the latents of autoencoders by a sparse head on labelled pictures; resumes when run again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.arguments import parse_parts
from efface.cli.model_options import HEADING, DrawingOptions
from efface.cli.output import result, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError
from efface.heads.config import HeadConfig

if TYPE_CHECKING:
    from efface.models.model import Model
    from efface.sae.latent_names import LatentNames


@dataclass(frozen=True)
class Request:
    """Draw labelled pictures, fit a head for every kind of concept and write `names.safetensors` of every site."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    coder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[FOLDER]")] = "emoji"
    """Folder of a run or of one autoencoder; `emoji` is the canvas's own."""
    sites: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--site"])] = ()
    """fnmatch patterns over modules; by default all that the run has autoencoders of."""
    concepts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file {"kind": {"concept": ["prompt", …]}}; the canvas's benchmark by default."""
    seeds: int = 2
    """Pictures of every prompt; every fifth of those that show the same is held out."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None
    """Folder of the names, with a folder for each site; by default the autoencoders' own."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    parts = {"general": Request, HEADING: DrawingOptions, "head": HeadConfig}
    request, options, config = parse_parts(parts, args, prog="efface sae name", description=__doc__)
    from efface.api.decisions import about_model
    from efface.cli.sae.common import labelled, sampling_of
    from efface.heads.fit import require_told_apart
    from efface.heads.labels import labelled_pictures, of_kind
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.sae.activity import activity
    from efface.sae.harvest import HarvestConfig, require_denoiser
    from efface.sae.latent_names import FILE, name_latents
    from efface.sae.lookup import open_sae

    pipeline = options.load(request.model)
    model = Model(pipeline)
    sites = _sites(request, model)
    require_denoiser([site for name in sites for site in model.sites(name)])
    folders = {site: _folder(request, site) for site in sites}
    opened = {site: open_sae(request.coder, site) for site in sites}
    samples, kinds = labelled(request.concepts, request.seeds, pipeline, options.seed)
    pictures = labelled_pictures(samples, list(kinds))
    for kind in set(kinds.values()):  # before anything is drawn
        concepts, columns = of_kind(kinds, kind)
        require_told_apart(pictures.labels[:, columns], concepts)
    harvest = HarvestConfig(tuple(sites), **sampling_of(pipeline, request.steps, request.guidance, options))
    decided = {"steps": harvest.steps, "guidance": harvest.guidance, "sites": sites, "seeds": request.seeds}
    decided |= {"pictures": len(pictures.samples), "concepts": len(kinds), "k": config.k, "penalty": config.penalty}
    say_decisions(drawing_rows(about_model(pipeline, harvest.side) | decided))
    with ProgressBar(f"drawing {len(pictures.samples)} pictures of {len(kinds)} concepts") as progress:
        saes = {site: sae for site, (sae, _) in opened.items()}
        read = activity(model, saes, pictures.samples, harvest, _pieces(request), progress=progress)
        found = {}
        for site in sites:
            progress(1.0, f"fitting the heads of {site}")
            found[site] = name_latents(read[site], pictures.labels, kinds, config, sha256=opened[site][1])
            folders[site].mkdir(parents=True, exist_ok=True)
            found[site].save(folders[site] / FILE)
    data = {site: names.summary() | {"file": str(folders[site] / FILE)} for site, names in found.items()}
    result({"sites": data}, as_json=request.json, rows=[row for site in sites for row in _rows(site, found[site])])


def _sites(request: Request, model: Model) -> list[str]:
    """The sites whose latents are named.

    Raises:
        UsageError: no pattern was given and the folder has no folder for each site.
    """
    from efface.sae.lookup import sae_folder

    if request.sites:
        return list(dict.fromkeys(site.name for pattern in request.sites for site in model.sites(pattern)))
    root = sae_folder(request.coder, "sites")
    found = sorted(
        path.parent.name for path in root.glob("*/cfg.json") if not path.parent.name.startswith("text_encoder")
    )
    if not found:
        raise UsageError(
            f"{root} has no folder for each site: give the folder of a run (`efface sae train`), or name the site (--site)."
        )
    return found


def _folder(request: Request, site: str) -> Path:
    """Where the names of a site are written.

    Raises:
        UsageError: by default that would be inside this package or the Hub's cache.
    """
    from efface.sae.latent_names import names_folder

    if request.output is not None:
        return request.output / site
    if not Path(request.coder).is_dir():
        raise UsageError(f"the autoencoders of {request.coder} are no folder of yours: name one for their names (-o).")
    return names_folder(None, request.coder, site)


def _pieces(request: Request) -> Path:
    """Where the activations of pictures are kept."""
    return (request.output or Path(request.coder)) / "activity"


def _rows(site: str, names: LatentNames) -> list[tuple[str, str]]:
    """What was found of a site, for people."""
    told: dict[str, Any] = names.summary()
    rows = [(site, f"{told['named']} of {told['latents']} latents have a name")]
    for kind, figures in told["kinds"].items():
        most = "all of them" if figures["k"] is None else f"at most {figures['k']} a picture"
        rows.append((f"{site} {kind}", f"{names.accuracy[kind]}, reading {figures['read']} latents, {most}"))
        for concept, latents in figures["chosen"].items():
            words = ", ".join(f"{latent} {names.names[latent]}" for latent in latents)
            rows.append((f"{site} {concept}", f"latents {words}" if latents else "no latent speaks for it"))
    return rows
