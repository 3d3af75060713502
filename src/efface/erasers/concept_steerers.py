"""Concept steerers: a direction of an autoencoder of the text encoder is taken from every prompt (Kim and Ghadiyaram,
arXiv 2501.19066)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Config(Retaining):
    """Options of concept steerers."""

    phrases: tuple[str, ...] | None = None
    """Texts of the concept, read as one; by default SLD's twenty terms for what is explicit, else names and aliases."""
    coder: str | None = None
    """Folder of an autoencoder of the layer's states; without one, a small one is trained on the concept's and the retained
    prompts."""
    layer: str | None = None
    """Path of the layer, such as text_encoder.encoder.layers.9; by default three quarters up the first text encoder."""
    strength: float = -0.5
    """λ; negative to leave the concept (authors: −0.5 for nudity, −0.7 for violence)."""
    factor: int = 4
    """Latents of the autoencoder that is trained, for each channel."""
    k: int = 32
    """Active latents of a state while it is trained."""
    iterations: int = 300
    """Training steps."""
    lr: float = 4e-4
    """Learning rate of Adam."""
    seed: int = 0
    """Seed of the training."""

    def __post_init__(self) -> None:
        if min(self.factor, self.k, self.iterations) < 1 or not abs(self.strength) < float("inf"):
            raise UsageError(
                f"factor, k, iterations and strength are {self.factor}, {self.k}, {self.iterations} and {self.strength}; expected at "
                "least 1 of each, and a finite number."
            )


PUBLISHED: Mapping[str, Any] = {}
"""λ, expansion, k and learning rate are the authors'; their autoencoder is not at hand, and their code's call counter, which decides
on the sign, is not followed."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """The guard, which holds the direction and not the autoencoder; `judge` is not used.

    Raises:
        EffaceError: the model has no such layer, or the autoencoder is of another.
        UsageError: there is no autoencoder, and nothing retained to train one on.
    """
    from efface.concepts.guarded import safety_text
    from efface.erasures.guards.steer import VECTOR, Steer
    from efface.sae.files import load_sae
    from efface.steering.guards import make_guard
    from efface.steering.steerer import direction, middle_layer

    phrases = safety_text(concepts) if config.phrases is None else config.phrases
    rule = Steer(phrases=phrases, layer=config.layer or middle_layer(model), strength=config.strength)
    rule.require(model)
    sae = _trained(model, rule.layer, concepts, config) if config.coder is None else load_sae(config.coder)
    vector = direction(model, sae, rule.layer, ", ".join(phrases))
    return make_guard(model, "concept-steerers", config, concepts, {"steer": rule}, vectors={VECTOR: vector})


def _trained(model: Model, layer: str, concepts: Sequence[Concept], config: Config) -> SparseAutoencoder:
    """An autoencoder of the layer, trained on what the prompts at hand give."""
    from efface.concepts.sample import evenly_spaced
    from efface.steering.steerer import layer_states, train_on_states

    if not config.keep:
        raise UsageError(
            "concept-steerers trains an autoencoder on retained prompts, and nothing is retained: name --keep, or --coder."
        )
    own = [prompt for concept in concepts for prompt in concept.prompts()]
    states = layer_states(model, layer, [*own, *evenly_spaced(config.keep, 512)]).flatten(0, 1)
    latents = config.factor * states.shape[1]
    return train_on_states(
        states[states.any(1)],
        latents=latents,
        k=min(config.k, latents),
        iterations=config.iterations,
        lr=config.lr,
        seed=config.seed,
    )
