"""Anchored: latents of a sparse autoencoder write what the concept's anchor would write, fitted in closed form (ours).

SAeUron (arXiv 2501.18052) turns latents down and leaves a picture of nothing in particular; here what the latents of the
concept write becomes what the anchor's prompt would write (`efface.steering.anchor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept, default_anchor
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.erasures.latent_edit import Edit
    from efface.models.model import Model
    from efface.sae.autoencoder import Coder
    from efface.sae.statistics import Statistics

REPORTED = 4
"""Of an edit's many latents, so many of each site are explained in its notes, those of the highest scores."""


@dataclass(frozen=True)
class Config:
    """Options of the anchored edit."""

    coder: str = "emoji"
    """Folder of the autoencoder, or of a run with one for every site; `emoji` is the canvas's own."""
    site: str | None = None
    """The module whose output is edited, or a pattern that names several (by default SAeUron's block for the kind)."""
    statistics: str | None = None
    """File of the site's statistics, or of several sites' the folder (`efface sae features`); without it the autoencoder's
    folder is looked in, and then pictures of the concept and of what is kept are drawn."""
    latents: int = 512
    """Latents chosen for each concept and site, for all noise levels; all of a smaller autoencoder's."""
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
    """Pictures of the concept, and as many of what is kept, where statistics are taken; on the way to as many the edit is
    fitted."""
    draw_steps: int = 50
    """Denoising steps of those pictures."""
    guidance: float = 9.0
    """Their guidance scale."""
    seed: int = 0
    """Of those pictures."""

    def __post_init__(self) -> None:
        for name in ("latents", "images", "draw_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if not (self.preserve_weight >= 0 and self.ridge > 0):
            raise UsageError(
                f"preserve_weight is {self.preserve_weight} and ridge {self.ridge}; expected at least 0 and above 0."
            )


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Choose latents for every concept, and fit what they write instead; `judge` is not used."""
    from efface.erasures import ActivationEdit
    from efface.erasures.provenance import provenance
    from efface.sae.statistics import select
    from efface.steering.statistics_source import explained, open_coders, published_site

    sites = [site.name for site in model.sites(config.site or published_site(concepts))]
    coders, named = open_coders(config.coder, sites)
    measured = _statistics(model, coders, concepts, config)
    edits = _edits(model, coders, measured, concepts, config)
    count = min(REPORTED, config.latents)
    why = {}
    for c in concepts:
        scores = {site: found.scores(c.name) for site, found in measured.items()}
        best = {site: select(table.mean(0).expand_as(table), count) for site, table in scores.items()}
        why[c.name] = explained(measured, c.name, best)
    settings = asdict(config) | {"sites": sites, "coders": named}
    origin = provenance(model, "anchored", settings, concepts, config.keep or (), chosen=why)
    return ActivationEdit(origin, edits, coders)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The edit fitted again, with the found prompts beside the concept's own.

    Raises:
        EffaceError: the attacks found embeddings, or nothing is kept.
    """
    from efface.erasers.base import given
    from efface.erasures import ActivationEdit
    from efface.steering.statistics_source import open_coders

    assert isinstance(erasure, ActivationEdit)
    origin = erasure.provenance
    evidence.words()
    kept = origin.keep or evidence.concept.keep
    if not kept:
        raise EffaceError("hardening needs prompts of what is kept, to compare the found ones with (--keep).")
    config = replace(given(Config, origin.config), keep=tuple(kept))
    coders, _ = open_coders(config.coder, erasure.edits)
    measured = _statistics(model, coders, origin.concepts, config)
    pairs = [(p, anchor) for p, anchor in zip(evidence.prompts, evidence.anchors, strict=True) if p is not None]
    return ActivationEdit(origin, _edits(model, coders, measured, origin.concepts, config, pairs), erasure.coders)


def _statistics(
    model: Model, coders: dict[str, Coder], concepts: Sequence[Concept], config: Config
) -> dict[str, Statistics]:
    """Every site's statistics, from files or from pictures."""
    from efface.steering.statistics_source import known_statistics, taken_statistics

    known = known_statistics(config.statistics, config.coder, list(coders), concepts)
    how: dict[str, Any] = {"images": config.images, "steps": config.draw_steps, "guidance": config.guidance}
    return known or taken_statistics(model, coders, concepts, config.keep, seed=config.seed, **how)


def _edits(
    model: Model,
    coders: dict[str, Coder],
    measured: dict[str, Statistics],
    concepts: Sequence[Concept],
    config: Config,
    found: Sequence[tuple[str, str]] = (),
) -> dict[str, Edit]:
    """What happens at every site; `found` are further prompts and what they should be drawn as."""
    from efface.steering.anchor import AnchorFit, redirected
    from efface.steering.calibrate import spread

    if not config.keep:
        raise UsageError("an anchored edit needs prompts on which nothing is to change: give some (--keep).")
    own = [pair for c in concepts for pair in zip(c.prompts(), c.anchors(default_anchor(c)), strict=True)]
    pairs = [*spread(own, config.images * len(concepts)), *found]
    how = AnchorFit(
        latents=config.latents, steps=config.draw_steps, guidance=config.guidance, seed=config.seed,
        preserve_weight=config.preserve_weight, ridge=config.ridge, exact=config.mode == "exact",
    )  # fmt: skip
    return redirected(model, coders, measured, [c.name for c in concepts], pairs, config.keep, how)
