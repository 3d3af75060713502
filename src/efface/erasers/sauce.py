"""SAUCE: turn down the latents of image features that respond to a concept, in a vision-language model (arXiv 2503.14530)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import FromPictures
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.models.vlm import VisionLanguageModel
    from efface.steering.image_latents import Choice

VECTORS = 2048
"""Features of a step of an autoencoder's training."""
PUBLISHED: Mapping[str, Any] = {"select": "mean", "mode": "published", "gain": 0.0, "gated": False}
"""What `--as-published` changes; the number of latents and the factor are searched for in the paper, and are options."""


@dataclass(frozen=True)
class Config(FromPictures):
    """Options of SAUCE."""

    site: str = "projector"
    """Where features are edited: the projector's input, or the output of a layer that is read, such as vision_tower.layers.3."""
    coder: str | None = None
    """Folder of the site's autoencoder (`efface sae train MODEL --pictures FOLDER`); without one, one is trained on the pictures."""
    select: Literal["score", "mean"] = "score"
    """`score`: the latents with the largest share of their activity on the concept, less that on other pictures (SAeUron's score);
    `mean`: those most active on the concept's pictures, as published, which always active ones are too."""
    count: int = 32
    """Latents that are chosen."""
    gain: float = -2.0
    """Factor of an active chosen latent (paper: 0 or a scale)."""
    gated: bool = True
    """Whether pictures that a linear discriminant takes for pictures of other things keep every bit (published: all are edited)."""
    mode: Literal["fast", "exact", "published"] = "fast"
    """`fast`: active above a threshold, a file of a few kilobytes; `exact`: active by the autoencoder's own rule, with the whole
    autoencoder; `published`: the features are replaced by what the autoencoder makes of them, its error left out."""
    expansion: int = 16
    """Latents per channel of an autoencoder that is trained."""
    k: int = 16
    """Active latents of a vector of it."""
    iterations: int = 600
    """Steps of its training."""
    seed: int = 0
    """Seed of its training."""

    def __post_init__(self) -> None:
        for name in ("count", "expansion", "k", "iterations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if not abs(self.gain) < float("inf"):
            raise UsageError(f"gain is {self.gain}; expected a finite number.")


def erase(model: VisionLanguageModel, concepts: Sequence[Concept], config: Config, judge: Any = None) -> Erasure:
    """Choose latents of every concept from pictures, and scale them where they are active; `judge` is not used.

    Args:
        model: a vision-language model; it stays as it is.
        concepts: what is erased; their names are those of the folders of pictures.
        config: options.
        judge: not used.

    Raises:
        UsageError: there are no pictures of a concept, or none without it; or a mode needs an autoencoder on disk.
    """
    from efface.erasures.image_edit import ImageEdit
    from efface.erasures.provenance import Provenance
    from efface.sae.image_statistics import image_statistics
    from efface.steering.image_latents import concept_tables, open_or_train, picture_gate, read_pictures
    from efface.steering.tables import merge_tables

    site = model.site(config.site)
    pictures = read_pictures(config.images, config.others, [concept.name for concept in concepts])
    choice = _choice(config)
    sae, reference = open_or_train(model, site, pictures, choice)
    stats = image_statistics(model, site, sae, pictures)
    tables, chosen = [], {}
    for concept in concepts:
        found, chosen[concept.name] = concept_tables(stats, sae, concept.name, choice)
        tables.append(found)
    edit = merge_tables(tables, sae, stats)
    names = [concept.name for concept in concepts]
    gates = {site.name: picture_gate(model, site, pictures, names)} if config.gated else {}
    settings = asdict(config) | {"sites": [site.name], "coders": {site.name: reference} if reference else {}}
    notes = {"chosen": chosen, "pictures": {name: len(shown) for name, shown in pictures.items()}}
    origin = Provenance("sauce", settings, tuple(concepts), model.footprint(), (), notes)
    return ImageEdit(provenance=origin, edits={site.name: edit}, gates=gates, saes={site.name: sae})


def _choice(config: Config) -> Choice:
    """The options in the words of what chooses latents."""
    from efface.sae.config import SAETrainConfig
    from efface.steering.image_latents import Choice

    training = SAETrainConfig(
        expansion=config.expansion,
        k=config.k,
        steps=config.iterations,
        batch=VECTORS,
        lr=1e-3,
        passes=2.0,
        seed=config.seed,
    )
    return Choice(
        coder=config.coder,
        select=config.select,
        count=config.count,
        gain=config.gain,
        mode=config.mode,
        training=training,
    )
