"""Anchored: a concept's SAE latents write what its anchor would write, fitted in closed form (ours).

SAeUron (arXiv 2501.18052) suppresses latents, which leaves a picture of nothing in particular; here their decoder rows
are replaced by rows fitted to what the anchor's prompt would write at the same noisy latents (`efface.steering.anchor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept, default_anchor
from efface.concepts.sample import evenly_spaced
from efface.erasers.base import Retaining, check_ridges, check_weights, config_from
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.erasures.latent_edit import LatentEdit
    from efface.models.model import Model
    from efface.sae.autoencoder import SparseAutoencoder
    from efface.sae.statistics import Statistics

REPORTED = 4
"""Number of latents per site that an edit's notes list, those of the highest scores."""


@dataclass(frozen=True)
class Config(Retaining):
    """Options of the anchored edit."""

    coder: str = "emoji"
    """Folder of the autoencoder, or of a run with one for every site; `emoji` is the canvas's own."""
    site: str | None = None
    """Module whose output is edited, or a pattern over several (by default SAeUron's block for the kind)."""
    statistics: str | None = None
    """File of the site's statistics, or folder of several sites' (`efface sae features`); by default those in the autoencoder's
    folder, and where there are none, statistics measured on pictures of the concept and of retained prompts."""
    latents: int = 512
    """Latents chosen per concept and site, for all timesteps; an autoencoder with fewer gives all of its own."""
    preserve_weight: float = 1.0
    """p, the weight of retained prompts, on which nothing should be written."""
    ridge: float = 0.01
    """λ, as a share of the mean activity."""
    mode: Literal["fast", "exact"] = "fast"
    """`fast`: active above a calibrated threshold, a file of a few kilobytes; `exact`: among the k largest of its position,
    with the whole autoencoder."""
    keep: tuple[str, ...] | None = None
    """Prompts on which nothing is to change."""
    images: int = 20
    """Pictures per concept on which the edit is fitted; also those on which statistics are measured, where there are none."""
    draw_steps: int = 50
    """Denoising steps of those pictures."""
    guidance: float = 9.0
    """Guidance scale of those pictures."""
    seed: int = 0
    """First seed of those pictures."""

    def __post_init__(self) -> None:
        for name in ("latents", "images", "draw_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        check_weights(self, "preserve_weight")
        check_ridges(self, "ridge")


PUBLISHED: Mapping[str, Any] = {}
"""There is no paper of it."""
EXTENDS = "activation"
LEARNS = ("words",)
"""Kind of the erasures that hardening can add to."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Choose latents of every concept and fit their decoder rows to the anchors; `judge` is not used."""
    from efface.erasures import ActivationEdit
    from efface.erasures.provenance import provenance
    from efface.sae.statistics import select
    from efface.steering.statistics_source import open_saes, published_site, selection_notes

    sites = [site.name for site in model.sites(config.site or published_site(concepts))]
    saes, references = open_saes(config.coder, sites)
    stats = _statistics(model, saes, concepts, config)
    edits = _edits(model, saes, stats, concepts, config)
    count = min(REPORTED, config.latents)
    notes = {}
    for concept in concepts:
        scores = {site: of_site.scores(concept.name) for site, of_site in stats.items()}
        best = {site: select(table.mean(0).expand_as(table), count) for site, table in scores.items()}
        notes[concept.name] = selection_notes(stats, concept.name, best)
    settings = asdict(config) | {"sites": sites, "coders": references}
    origin = provenance(model, "anchored", settings, concepts, config.keep or (), chosen=notes)
    return ActivationEdit(origin, edits, saes)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """Fit the edit again, with the prompts that attacks found beside the concept's own.

    Raises:
        EffaceError: the attacks found embeddings, or there are no retained prompts.
    """
    from efface.erasures import ActivationEdit
    from efface.steering.statistics_source import open_saes

    assert isinstance(erasure, ActivationEdit)
    origin = erasure.provenance
    evidence.words()
    retained = origin.keep or evidence.concept.keep
    if not retained:
        raise EffaceError("hardening needs prompts of what is kept, to compare the found ones with (--keep).")
    config = replace(config_from(Config, origin.config), keep=tuple(retained))
    saes = open_saes(config.coder, erasure.edits).saes
    stats = _statistics(model, saes, origin.concepts, config)
    pairs = [(p, anchor) for p, anchor in zip(evidence.prompts, evidence.anchors, strict=True) if p is not None]
    return ActivationEdit(origin, _edits(model, saes, stats, origin.concepts, config, pairs), erasure.saes)


def _statistics(
    model: Model, saes: dict[str, SparseAutoencoder], concepts: Sequence[Concept], config: Config
) -> dict[str, Statistics]:
    """Statistics of every site, from files or measured on pictures."""
    from efface.steering.statistics_source import load_statistics, measure_statistics

    return load_statistics(config.statistics, config.coder, list(saes), concepts) or measure_statistics(
        model,
        saes,
        concepts,
        config.keep,
        images=config.images,
        steps=config.draw_steps,
        guidance=config.guidance,
        seed=config.seed,
    )


def _edits(
    model: Model,
    saes: dict[str, SparseAutoencoder],
    stats: dict[str, Statistics],
    concepts: Sequence[Concept],
    config: Config,
    further: Sequence[tuple[str, str]] = (),
) -> dict[str, LatentEdit]:
    """Fit the edit of every site; `further` holds prompts beside the concepts' own, each with its anchor prompt."""
    from efface.steering.anchor import AnchorFit, anchor_edits

    if not config.keep:
        raise UsageError("an anchored edit needs prompts on which nothing is to change: give some (--keep).")
    own = [pair for c in concepts for pair in zip(c.prompts(), c.anchors(default_anchor(c)), strict=True)]
    pairs = [*evenly_spaced(own, config.images * len(concepts), repeat=True), *further]
    fit = AnchorFit(
        latents=config.latents,
        steps=config.draw_steps,
        guidance=config.guidance,
        seed=config.seed,
        preserve_weight=config.preserve_weight,
        ridge=config.ridge,
        exact=config.mode == "exact",
    )
    return anchor_edits(model, saes, stats, [c.name for c in concepts], pairs, config.keep, fit)
