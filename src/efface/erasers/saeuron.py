"""SAeUron: suppress the SAE latents that respond to a concept (Cywiński and Deja, ICML 2025, arXiv 2501.18052)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, config_from
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.erasures.latent_edit import LatentEdit
    from efface.models.model import Model
    from efface.sae.autoencoder import SparseAutoencoder
    from efface.sae.statistics import Statistics
    from efface.steering.statistics_source import KnownLatents
    from efface.steering.tables import LatentTables

Gain = Literal["published", "normalised", "clamp"]

PUBLISHED: Mapping[str, Any] = {
    "mode": "published",
    "gain": "published",
    "shared": "last",
    "weighting": "pictures",
}
"""What `--as-published` changes."""
EXTENDS = "activation"
LEARNS = ("words",)
"""Kind of the erasures that hardening can add to."""


@dataclass(frozen=True)
class Config(Retaining):
    """Options of SAeUron."""

    coder: str = "emoji"
    """Folder of the autoencoder, or of a run with one for every site; `emoji` is the canvas's own."""
    site: str | None = None
    """Module whose output is edited, or a pattern over several (paper: unet.up_blocks.1.attentions.1 for objects,
    .2 for styles)."""
    statistics: str | None = None
    """File of the site's statistics, or folder of several sites' (`efface sae features`); by default those in the autoencoder's
    folder, and where there are none, statistics measured on pictures of the concept and of retained prompts."""
    count: int = 1
    """Latents chosen at each timestep (paper: 1 to 3)."""
    selection: Literal["score", "head"] = "score"
    """`score`: the published one; `head`: the fewest latents by which a sparse head tells the concept (`efface sae name`), at all
    timesteps."""
    margin: float = 0.9
    """Share of the concept's logit margin that the latents chosen by a head hold."""
    names: str | None = None
    """Folder of the heads; by default those in the autoencoder's folder."""
    assigned: bool = False
    """Choose, at all timesteps, the one latent that a training with labels gave to the concept (`efface sae train --supervised
    saemnesia`)."""
    percentile: float | None = None
    """Instead of `count`: choose latents whose score is above this percentile (paper: 99.99 to 99.999)."""
    gamma: float | None = None
    """γ, the factor of a chosen latent (paper: −1 for styles, −1 to −30 for objects, found by a sweep)."""
    gain: Gain = "published"
    """`published`: z becomes γ·μ·z with μ the latent's mean over the concept's pictures; `normalised`: γ·z; `clamp`: γ·μ."""
    mode: Literal["fast", "exact", "published"] = "fast"
    """`fast`: active above a calibrated threshold, a file of a few kilobytes; `exact`: among the k largest of its position,
    with the whole autoencoder; `published`: exact, with the public code's error term D(z) − x."""
    shared: Literal["strongest", "last"] = "strongest"
    """Where several concepts choose one latent: the stronger suppression counts, or as in the public code the last concept."""
    weighting: Literal["concepts", "pictures"] = "concepts"
    """Whether the mean over other concepts, which scores compare with, counts every concept alike, or as in the public code every
    picture."""
    by_block: Literal["agreeing", "keyed", "shared"] = "agreeing"
    """Of models that draw block by block: whether every block has its own statistics (`keyed`), all blocks the same (`shared`), or
    the same at those levels at which the scores choose the same latents in every block."""
    calibrate: bool = False
    """Find `count` and `gamma` with a judge on at most 200 pictures of the concepts and of those most affected."""
    keep: tuple[str, ...] | None = None
    """Retained prompts, with whose pictures the concept's are compared where there are no statistics of other concepts."""
    images: int = 20
    """Pictures per concept, and as many of retained prompts, where statistics are measured (paper: 20 a style, 80 an object)."""
    draw_steps: int = 50
    """Denoising steps of those pictures."""
    guidance: float = 9.0
    """Guidance scale of those pictures (paper: 9)."""
    seed: int = 0
    """First seed of those pictures."""

    def __post_init__(self) -> None:
        for name in ("count", "images", "draw_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if not 0 < self.margin <= 1:
            raise UsageError(f"margin is {self.margin}; expected a number above 0 and at most 1.")
        if self.selection == "head" and (self.assigned or self.percentile is not None):
            other = "assigned" if self.assigned else "percentile"
            raise UsageError(f"{other} is another way to choose latents than selection head: leave one of them out.")

    @property
    def asks_judge(self) -> bool:
        """Only to calibrate."""
        return self.calibrate


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: Any = None) -> Erasure:
    """Choose latents of every concept at every timestep by their score (eq. 4 to 6), and scale them by γ μ.

    Where concepts share a latent the smaller gain, which is the stronger suppression, wins, unless `config.shared` says otherwise.

    Args:
        model: the unerased model.
        concepts: concepts to erase together.
        config: options.
        judge: needed to calibrate; its classes must name the concepts.
    """
    from efface.erasures import ActivationEdit
    from efface.erasures.provenance import provenance
    from efface.steering.calibrate import COUNTS, calibrate
    from efface.steering.statistics_source import load_statistics, measure_statistics, open_saes, published_site

    sites = [site.name for site in model.sites(config.site or published_site(concepts))]
    saes, references = open_saes(config.coder, sites)
    only = _known_latents(config, references, concepts)
    loaded = load_statistics(config.statistics, config.coder, sites, concepts)
    stats = loaded or measure_statistics(
        model,
        saes,
        concepts,
        config.keep,
        images=config.images,
        steps=config.draw_steps,
        guidance=config.guidance,
        seed=config.seed,
    )
    if config.weighting == "pictures":
        stats = {site: of_site.weighted_by_picture() for site, of_site in stats.items()}
    compared = () if loaded else config.keep or ()

    def erasure_with(config: Config, **notes: Any) -> ActivationEdit:
        """The erasure by one choice of options."""
        blocks = model.family.blocks
        edits = {site: _site_edit(stats[site], saes[site], concepts, config, _at(only, site), blocks) for site in sites}
        gammas = [gamma_of(concept, config) for concept in concepts]
        settings = asdict(config) | {"sites": sites, "gammas": gammas, "coders": references}
        notes = {"chosen": _selection(stats, saes, concepts, config, only, blocks)} | notes
        return ActivationEdit(provenance(model, "saeuron", settings, concepts, compared, **notes), edits, saes)

    if not config.calibrate:
        return erasure_with(config)
    counts = (config.count,) if only else COUNTS
    best, curve = calibrate(model, concepts, config, list(stats.values()), erasure_with, judge, counts=counts)
    return erasure_with(best, calibration=curve)


def _known_latents(
    config: Config, references: Mapping[str, Mapping[str, str]], concepts: Sequence[Concept]
) -> KnownLatents:
    """Latents that a head or a training with labels chose; none where the published score is to."""
    from efface.steering.statistics_source import assigned_latents, head_latents

    if config.selection == "head":
        return head_latents(config.coder, config.names, references, concepts, config.margin)
    return assigned_latents(config.coder, references, concepts) if config.assigned else {}


def _at(only: KnownLatents, site: str) -> dict[str, list[int]]:
    """Concept -> its latents at one site."""
    return {concept: latents for (at, concept), latents in only.items() if at == site}


def _site_edit(
    stats: Statistics,
    sae: SparseAutoencoder,
    concepts: Sequence[Concept],
    config: Config,
    only: Mapping[str, list[int]],
    blocks: int,
) -> LatentEdit:
    """The edit of one site: the tables of all concepts, merged."""
    from efface.steering.tables import merge_tables

    return merge_tables(
        [_tables(stats, sae, concept, config, only.get(concept.name), blocks) for concept in concepts],
        sae,
        stats,
        shared=config.shared,
    )


def _tables(
    stats: Statistics,
    sae: SparseAutoencoder,
    concept: Concept,
    config: Config,
    only: list[int] | None = None,
    blocks: int = 1,
) -> LatentTables:
    """Gate μ(i, t, D) and gain γ μ(i, t, D_c) of the latents chosen for one concept at one site."""
    from efface.steering.blocks import over_blocks
    from efface.steering.tables import latent_tables, latents_per_timestep

    count = latents_per_timestep(sae, config.count, config.percentile)
    return latent_tables(
        over_blocks(stats, blocks, concept.name, count=count, how=config.by_block, only=only),
        sae,
        concept.name,
        count=count,
        gamma=gamma_of(concept, config),
        gain=config.gain,
        fast=config.mode == "fast",
        only=only,
    )


def _selection(
    stats: dict[str, Statistics],
    saes: dict[str, SparseAutoencoder],
    concepts: Sequence[Concept],
    config: Config,
    only: KnownLatents,
    blocks: int,
) -> dict[str, list[dict[str, Any]]]:
    """Concept -> the latents chosen for it with their figures, for the erasure's notes."""
    from efface.sae.statistics import select
    from efface.steering.blocks import over_blocks
    from efface.steering.statistics_source import selection_notes
    from efface.steering.tables import latents_per_timestep

    counts = {site: latents_per_timestep(saes[site], config.count, config.percentile) for site in stats}
    notes = {}
    for concept in concepts:
        name = concept.name
        known = {site: only.get((site, name)) for site in stats}
        used = {
            site: over_blocks(s, blocks, name, count=counts[site], how=config.by_block, only=known[site])
            for site, s in stats.items()
        }
        masks = {site: select(s.scores(name), counts[site], known[site]) for site, s in used.items()}
        notes[name] = selection_notes(used, name, masks)
    return notes


def gamma_of(concept: Concept, config: Config) -> float:
    """The factor γ of the options, or the paper's: −1 for styles; −10, the middle of its sweep, for other concepts."""
    if config.gamma is not None:
        return config.gamma
    return -1.0 if concept.kind == "style" else -10.0


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """Choose further latents at every site, those with the highest scores on pictures of the prompts that attacks found.

    Each round of attacks adds one latent per timestep.

    Raises:
        EffaceError: the attacks found embeddings, or there are no retained prompts to compare the found ones with.
    """
    from efface.concepts.sample import Sample
    from efface.erasures import ActivationEdit
    from efface.models.sampling import sampling
    from efface.sae.harvest import HarvestConfig
    from efface.sae.statistics import statistics
    from efface.steering.statistics_source import open_saes
    from efface.steering.tables import add_latents, max_latents_per_timestep

    assert isinstance(erasure, ActivationEdit)
    origin = erasure.provenance
    concept = evidence.concept
    if origin.config.get("gain") not in get_args(Gain):
        raise EffaceError("the erasure was made by another efface, whose `saeuron` had other gains: make it again.")
    prompts = evidence.words()
    retained = origin.keep or concept.keep
    if not retained:
        raise EffaceError("hardening needs prompts of what is kept, to compare the found ones with (--keep).")
    config = config_from(Config, origin.config)
    saes = open_saes(config.coder, erasure.edits).saes
    compared = [retained[i * len(retained) // len(prompts)] for i in range(len(prompts))]
    pictures = [
        Sample(prompt=prompt, seed=config.seed + i, shows=(name,))
        for name, group in ((concept.name, prompts), ("", compared))
        for prompt in group
        for i in range(evidence.images)
    ]
    harvest = HarvestConfig(tuple(saes), **sampling(model.pipeline, None, None))
    stats = statistics(model, saes, pictures, {concept.name: "concept", "": "concept"}, harvest)
    edits = {}
    for site, edit in erasure.edits.items():
        count = max_latents_per_timestep(edit) + evidence.rounds
        further = replace(config, count=count, gamma=origin.config["gammas"][0], calibrate=False)
        tables = _tables(stats[site], saes[site], concept, further, blocks=model.family.blocks)
        edits[site] = add_latents(edit, saes[site], stats[site], tables)
    return ActivationEdit(origin, edits, erasure.saes)
