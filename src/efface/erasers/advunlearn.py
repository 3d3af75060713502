"""AdvUnlearn: a text encoder unlearns a concept also behind the word that would bring it back (Zhang et al., NeurIPS 2024,
arXiv 2405.15234)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError
from efface.training.config import Rolling

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.latents import Noisy
    from efface.training.loop import Step


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
    import torch

    from efface.training.encoders import every_layer, read, trained_encoders
    from efface.training.holders import holder
    from efface.training.result import trained_erasure
    from efface.training.search import behind, descend, require_words, with_words
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    require_words(model, "advunlearn")
    prompts = [prompt for concept in concepts for prompt in concept.prompts()]
    empty = model.encode([""])
    table = model.token_table().float()
    encoders = trained_encoders(model, config.encoders)

    def spoken(p: Tensor, prompt: str) -> Text:
        return with_words(model, table, [behind(model, prompt, 1)], p)

    def attack(step: Step, prompt: str, c: Text, z: Noisy) -> Tensor:
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
                text = spoken(p, prompt)
            return apart(model, step.predict(at, text), before, at.timestep, config.loss_in)

        return descend(start, objective, steps=config.attack_steps, lr=config.attack_lr)

    def loss(step: Step) -> Tensor:
        prompt = step.pick(prompts)
        c = model.encode([prompt])
        z = roll(step, c, config)
        target = mix(model, z, [(empty, 1 + config.eta), (c, -config.eta)])
        found = attack(step, prompt, c, z) if config.attack_steps and step.number >= config.warmup else None
        with step.edited():
            text = read(model, [prompt]) if found is None else spoken(found, prompt)
            value = apart(model, step.predict(z, text), target, z.timestep, config.loss_in)
        return value + retained(step, config.keep or (), config, count=config.retain_batch, reads=read)

    held = holder([weight for name in encoders for weight in every_layer(model, name)], config.rank, config.seed)
    return trained_erasure(model, "advunlearn", concepts, config, held, loss)
