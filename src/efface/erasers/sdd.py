"""SDD: a model's prediction under a concept becomes its own without any prompt, and what is kept is the average of the way
there (Kim et al., 2023, arXiv 2307.05977)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of SDD; defaults are its authors'."""

    where: Where = "cross"
    """Trained weights."""
    iterations: int = 1500
    """Training steps (paper: 1500)."""
    lr: float = 1e-5
    """Learning rate of AdamW (paper: 1e-5)."""
    decay: float = 0.999
    """d of the moving average θ̄ ← d θ̄ + (1 − d) θ, which is the result (paper: 0.999)."""
    clip: float = 1.0
    """Largest norm of the gradient (authors: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1 or self.clip <= 0:
            raise UsageError(f"decay is {self.decay} and clip {self.clip}; expected 0 to below 1, and above 0.")

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll, a target, and an output."""
        return self.each_step(forward=self.rolled + 1, back=1, together=1)


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are the authors', but for a weight decay of 1e-4, which shrinks the original weights."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z, c_i) − sg ε(z, ∅)|², concepts in turn, at latents z that the average rolls under all of them."""
    import torch

    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.result import trained_erasure
    from efface.training.targets import apart
    from efface.training.terms import retained, roll

    prompts = [prompt for concept in concepts for prompt in concept.prompts()]
    together = model.encode([", ".join(concept.name for concept in concepts)])
    empty = model.encode([""])

    def loss(step: Step) -> Tensor:
        c = model.encode([prompts[step.number % len(prompts)]])
        with torch.no_grad():
            with step.averaged():
                z = roll(step, together, config, by_edited=True)
            with step.edited():
                target = step.predict(z, empty)
        with step.edited():
            output = step.predict(z, c)
        return apart(model, output, target, z.timestep, config.loss_in) + retained(step, config.keep or (), config)

    held = holder(weights_of(model, config.where), config.rank, config.seed)
    return trained_erasure(model, "sdd", concepts, config, held, loss, clip=config.clip, decay=config.decay)
