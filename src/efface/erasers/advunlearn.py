"""AdvUnlearn: a text encoder unlearns a concept also behind the word that would bring it back (Zhang et al., NeurIPS 2024,
arXiv 2405.15234)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import Evidence, Retaining
from efface.errors import EffaceError, UsageError
from efface.training.config import Rolling, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.holders import Dense, LowRank
    from efface.training.latents import Noisy
    from efface.training.loop import Loss, Step

EXTENDS = "delta"
LEARNS = ("words", "embeddings")


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of AdvUnlearn; defaults are its authors', but for the latents of a search."""

    encoders: tuple[str, ...] = ()
    """Text encoders to train, all of the pipeline's by default."""
    eta: float = 1.0
    """η, how far the target lies on the other side of the empty prompt (authors: 1)."""
    iterations: int = 1000
    """Training steps (authors: 1000)."""
    lr: float = 1e-5
    """Learning rate of Adam (authors: 1e-5)."""
    retain: float = 0.3
    """λ, weight of the retained prompts (authors: 0.3)."""
    retain_batch: int = 5
    """Retained prompts a step (authors: 5)."""
    warmup: int = 200
    """Steps before the first search (authors: 200)."""
    attack_steps: int = 30
    """Steps of a search for the word (authors: 30); 0 leaves it out."""
    attack_lr: float = 1e-3
    """Learning rate of the search (authors: 1e-3)."""
    fresh: bool = False
    """Whether every step of a search rolls latents of its own, as the authors' does, which is most of what it takes; by default
    a search stays at those of the training step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.warmup, self.attack_steps) < 0 or self.retain_batch < 1 or self.attack_lr <= 0:
            raise UsageError(
                f"warmup, attack_steps, retain_batch and attack_lr are {self.warmup}, {self.attack_steps}, {self.retain_batch} and "
                f"{self.attack_lr}; expected at least 0, at least 0, at least 1, and above 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll, a target of two texts and an output; after the warm-up, the search's goal and its steps."""
        share = max(0.0, 1 - self.warmup / self.iterations)
        goals = self.attack_steps * (self.rolled + 1) if self.fresh else 0
        forward = self.rolled + 2 + share * (goals + min(1, self.attack_steps))
        return self.each_step(
            forward=forward, back=share * self.attack_steps + 1, together=1, retained=self.retain_batch
        )


COCO = (
    "airplane", "apple", "backpack", "banana", "baseball bat", "baseball glove", "bear", "bed", "bench", "bicycle", "bird", "boat",
    "book", "bottle", "bowl", "broccoli", "bus", "cake", "car", "carrot", "cat", "cell phone", "chair", "clock", "couch", "cow",
    "cup", "dining table", "dog", "donut", "elephant", "fire hydrant", "fork", "frisbee", "giraffe", "hair drier", "handbag",
    "horse", "hot dog", "keyboard", "kite", "knife", "laptop", "microwave", "motorcycle", "mouse", "orange", "oven",
    "parking meter", "person", "pizza", "potted plant", "refrigerator", "remote", "sandwich", "scissors", "sheep", "sink",
    "skateboard", "skis", "snowboard", "spoon", "sports ball", "stop sign", "suitcase", "surfboard", "teddy bear",
    "tennis racket", "tie", "toaster", "toilet", "toothbrush", "traffic light", "train", "truck", "tv", "umbrella", "vase",
    "wine glass", "zebra",
)  # fmt: skip
"""COCO's classes, in photographs of which the authors retain."""


def coco_prompts(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """A photograph of every class of COCO but those that are erased."""
    erased = {name.lower() for concept in concepts for name in (concept.name, *concept.aliases)}
    return tuple(f"a photo of a {name}" for name in COCO if name not in erased)


PUBLISHED: Mapping[str, Any] = {"fresh": True, "keep": coco_prompts}
"""Three faults of the authors' search are not repeated: gradients that add up from step to step, a word without the last step, and
words of a prompt counted by its spaces, so that further tokens are dropped."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε₀(z, E(p* ⊕ c)) − [ε₀(z, ∅) − η(ε₀(z, c) − ε₀(z, ∅))]|² + λ |ε₀(z_r, E(r)) − ε₀(z_r, E₀(r))|²,

    p* the embedding of one word before the prompt, which a search finds anew in every step:
    min_p |ε₀(z, E(p ⊕ c)) − ε₀(z, E₀(c))|².

    Raises:
        EffaceError: the pipeline's text encoder takes whole prompts only, so that no word can be put before one.
    """
    from efface.training.result import trained_erasure
    from efface.training.search import require_words

    require_words(model, "advunlearn")
    held = _encoders(model, config)
    loss = _loss(model, config, _own(model, concepts))
    return trained_erasure(model, "advunlearn", concepts, config, held, loss)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The text encoders trained on, half of the steps with what attacks found in the place of the prompt that it stands for (also
    behind a word that a search finds, from the first step on).

    Raises:
        EffaceError: the attacks found text states, which no text encoder makes, so that it cannot unlearn them.
    """
    from efface.erasers.base import config_from
    from efface.erasers.further import encoded, other_latents, take_up, trained_on
    from efface.erasures.delta import weight_delta

    if any(input.only_states for input in evidence.found):
        raise EffaceError(
            "the attack found text states, which go past the text encoder that advunlearn trains: harden with an attack on words."
        )
    origin = erasure.provenance
    config = config_from(Config, origin.config)
    held = _encoders(model, config)
    take_up(held, erasure)
    config = replace(other_latents(config, erasure, evidence), warmup=0)
    table = model.token_table().float()
    found = [Way(input.prompt, partial(encoded, model, table, input)) for input in evidence.found]
    loss = _loss(model, config, _own(model, origin.concepts), found)
    further = trained_on(model, erasure, evidence, held, loss, config)
    return weight_delta(further.provenance, further.deltas)


class Way(NamedTuple):
    """An input that draws a concept."""

    prompt: str
    """c, the prompt that it is, or stands for."""
    said: Callable[[Tensor | None], Text]
    """Takes a word to put before it (1 width) or None; gives it encoded, with gradients."""


def _own(model: Model, concepts: Sequence[Concept]) -> list[Way]:
    """The concepts' own prompts."""
    from efface.training.encoders import read
    from efface.training.search import behind, with_words

    table = model.token_table().float()

    def said(prompt: str, word: Tensor | None) -> Text:
        return read(model, [prompt]) if word is None else with_words(model, table, [behind(model, prompt, 1)], word)

    return [Way(prompt, partial(said, prompt)) for concept in concepts for prompt in concept.prompts()]


def _encoders(model: Model, config: Config) -> Dense | LowRank:
    """The weights of the text encoders that are trained."""
    from efface.training.encoders import every_layer, trained_encoders
    from efface.training.holders import holder

    encoders = trained_encoders(model, config.encoders)
    return holder([weight for name in encoders for weight in every_layer(model, name)], config.rank, config.seed)


def _loss(model: Model, config: Config, own: Sequence[Way], found: Sequence[Way] = ()) -> Loss:
    """L."""
    import torch

    from efface.erasers.further import either
    from efface.training.encoders import read
    from efface.training.search import descend
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    ways = [*own, *found]
    empty = model.encode([""])
    table = model.token_table().float()

    def attack(step: Step, way: Way, c: Text, z: Noisy) -> Tensor:
        """p*, found from a random start (1 width)."""
        start = table.std() * torch.randn(1, table.shape[1], generator=step.random).to(table.device)
        held = [p.detach() for p in step.held.parameters]

        def frozen(at: Noisy) -> Tensor:
            with torch.no_grad():
                return step.predict(at, c)

        goal = frozen(z)

        def objective(p: Tensor, number: int) -> Tensor:
            at = roll(replace(step, seed=step.seed + 1 + number), c, config) if config.fresh else z
            before = frozen(at) if config.fresh else goal
            with step.held.active(held):
                text = way.said(p)
            return apart(model, step.predict(at, text), before, at.timestep, config.loss_in)

        return descend(start, objective, steps=config.attack_steps, lr=config.attack_lr)

    def loss(step: Step) -> Tensor:
        way = ways[either(step, len(own), len(found))]
        c = model.encode([way.prompt])
        z = roll(step, c, config)
        target = mix(model, z, [(empty, 1 + config.eta), (c, -config.eta)])
        word = attack(step, way, c, z) if config.attack_steps and step.number >= config.warmup else None
        with step.edited():
            value = apart(model, step.predict(z, way.said(word)), target, z.timestep, config.loss_in)
        return value + retained(step, config.keep or (), config, count=config.retain_batch, reads=read)

    return loss
