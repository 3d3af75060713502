"""SAeUron: find the latents of a sparse autoencoder that speak of the concept, and turn them down (arXiv 2501.18052)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.sae.autoencoder import Coder
    from efface.sae.statistics import Statistics
    from efface.steering.tables import Tables

Gain = Literal["published", "normalised", "clamp"]

AS_PUBLISHED = {"mode": "published", "gain": "published"}
"""What `--as-published` changes."""


@dataclass(frozen=True)
class Config:
    """Options of SAeUron."""

    coder: str = "emoji"
    """Folder of the autoencoder, or of a run with one for every site; `emoji` is the canvas's own."""
    site: str | None = None
    """The module whose output is edited, or a pattern that names several (paper: unet.up_blocks.1.attentions.1 for objects,
    .2 for styles)."""
    statistics: str | None = None
    """File of the site's statistics, or of several sites' the folder (`efface sae features`); without it the autoencoder's
    folder is looked in, and then pictures of the concept and of what is kept are drawn."""
    count: int = 1
    """Latents chosen at each noise level (paper: 1 to 3)."""
    percentile: float | None = None
    """Instead of `count`: choose latents whose score is above this percentile (paper: 99.99 to 99.999)."""
    gamma: float | None = None
    """γ, the factor of a chosen latent (paper: −1 for styles, −1 to −30 for objects, found by a sweep)."""
    gain: Gain = "published"
    """`published`: z becomes γ·μ·z with μ the latent's mean over the concept's pictures; `normalised`: γ·z; `clamp`: γ·μ."""
    mode: Literal["fast", "exact", "published"] = "fast"
    """`fast`: active above a calibrated threshold, a file of a few kilobytes; `exact`: among the k largest of its position,
    with the whole autoencoder; `published`: exact, with the public code's error term D(z) − x."""
    calibrate: bool = False
    """Find `count` and `gamma` with a judge on at most 200 pictures of the concepts and of what suffers most."""
    keep: tuple[str, ...] | None = None
    """Prompts of what is kept, with which the concept is compared where there are no statistics of others."""
    images: int = 20
    """Pictures of the concept, and as many of what is kept, where statistics are taken (paper: 20 a style, 80 an object)."""
    draw_steps: int = 50
    """Denoising steps of those pictures."""
    guidance: float = 9.0
    """Their guidance scale (paper: 9)."""
    seed: int = 0
    """Of those pictures."""

    def __post_init__(self) -> None:
        for name in ("count", "images", "draw_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: Any = None) -> Erasure:
    """Choose latents for every concept and noise level, and say what becomes of them.

    Where concepts share a latent the stronger suppression wins: the smaller gain.
    """
    from efface.erasures import ActivationEdit
    from efface.erasures.provenance import provenance
    from efface.sae.statistics import select
    from efface.steering import statistics_source as source
    from efface.steering.calibrate import calibrated
    from efface.steering.tables import count_of, merged

    sites = [site.name for site in model.sites(config.site or source.published_site(concepts))]
    coders, named = source.open_coders(config.coder, sites)
    known = source.known_statistics(config.statistics, config.coder, sites, concepts)
    measured = known or source.taken_statistics(
        model, coders, concepts, config.keep, images=config.images, steps=config.draw_steps, guidance=config.guidance,
        seed=config.seed,
    )  # fmt: skip

    def made(config: Config, **notes: Any) -> ActivationEdit:
        """The erasure by one choice of options."""
        gammas = [gamma_of(c, config) for c in concepts]
        edits = {
            site: merged([_tables(found, coders[site], c, config) for c in concepts], coders[site], found)
            for site, found in measured.items()
        }
        settings = asdict(config) | {"sites": sites, "gammas": gammas, "coders": named}
        counts = {site: count_of(coders[site], config.count, config.percentile) for site in measured}
        why = {
            c.name: source.explained(
                measured, c.name, {site: select(found.scores(c.name), counts[site]) for site, found in measured.items()}
            )
            for c in concepts
        }
        compared = () if known else config.keep or ()
        return ActivationEdit(
            provenance(model, "saeuron", settings, concepts, compared, chosen=why, **notes), edits, coders
        )

    if not config.calibrate:
        return made(config)
    best, curve = calibrated(model, concepts, config, list(measured.values()), made, judge)
    return made(best, calibration=curve)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """More latents at every site, those that speak most of pictures of the found prompts, beside those turned down already:
    so many more at each level as attacks were needed.

    Raises:
        EffaceError: the attacks found embeddings, or there is nothing to compare the found prompts with.
    """
    from dataclasses import replace

    from efface.concepts.sample import Labelled
    from efface.erasers.base import given
    from efface.erasures import ActivationEdit
    from efface.models.sampling import sampling
    from efface.sae.harvest import HarvestConfig
    from efface.sae.statistics import statistics
    from efface.steering.statistics_source import open_coders
    from efface.steering.tables import chosen_already, with_latents

    assert isinstance(erasure, ActivationEdit)
    origin, concept = erasure.provenance, evidence.concept
    if origin.config.get("gain") not in ("published", "normalised", "clamp"):
        raise EffaceError("the erasure was made by another efface, whose `saeuron` had other gains: make it again.")
    prompts = evidence.words()
    kept = origin.keep or concept.keep
    if not kept:
        raise EffaceError("hardening needs prompts of what is kept, to compare the found ones with (--keep).")
    config = given(Config, origin.config)
    coders, _ = open_coders(config.coder, erasure.edits)
    texts = [(p, concept.name) for p in prompts] + [
        (kept[i * len(kept) // len(prompts)], "") for i in range(len(prompts))
    ]
    pictures = [Labelled(text, (name,), config.seed + i) for text, name in texts for i in range(evidence.images)]
    harvest = HarvestConfig(tuple(coders), **sampling(model.pipeline, None, None))
    measured = statistics(model, coders, pictures, {concept.name: "concept", "": "concept"}, harvest)
    gamma = origin.config["gammas"][0]
    edits = {}
    for site, edit in erasure.edits.items():
        more = replace(config, count=chosen_already(edit) + evidence.rounds, gamma=gamma, calibrate=False)
        tables = _tables(measured[site], coders[site], concept, more)
        edits[site] = with_latents(edit, coders[site], measured[site], tables)
    return ActivationEdit(origin, edits, erasure.coders)


def _tables(measured: Statistics, coder: Coder, concept: Concept, config: Config) -> Tables:
    """What happens to the latents of one concept at one site."""
    from efface.steering.tables import count_of, tables_of

    return tables_of(
        measured, coder, concept.name, count=count_of(coder, config.count, config.percentile),
        gamma=gamma_of(concept, config), gain=config.gain, fast=config.mode == "fast",
    )  # fmt: skip


def gamma_of(concept: Concept, config: Config) -> float:
    """The factor asked for, or the paper's: −1 for styles; −10, the middle of its sweep, for all else."""
    return config.gamma if config.gamma is not None else -1.0 if concept.kind == "style" else -10.0
