"""CA, concept ablation: a concept's prompts are drawn as an anchor's (Kumari et al., ICCV 2023, arXiv 2303.13516)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    """Options of CA; defaults are its authors' for a style."""

    where: Where = "text"
    """Trained weights (authors: keys and values of cross-attention)."""
    target: Literal["model", "noise"] = "model"
    """`model`: it is what the model itself predicts under the anchor's prompt; `noise`: the noise that was added."""
    lr: float = 1.6e-5
    """Learning rate of AdamW, as it acts: the authors' code multiplies 2e-6 by the batch over all GPUs (8)."""
    batch: int = 8
    """Pictures a step (authors: 8)."""
    images: int = 200
    """Pictures of anchor prompts that the model draws first (authors: 1000)."""
    draw_steps: int = 50
    """Sampler steps of those pictures."""
    guidance: float = 6.0
    """Guidance scale of those pictures."""
    prior: float = 0.0
    """λ, weight of |ε(z, anchor) − ξ|² (authors: 0 for styles and objects, 1 where they ask for it)."""
    detach_bos: bool = False
    """Whether keys and values of the begin token take no part in the training, as in the authors' attention."""
    clip: float = 1.0
    """Largest norm of the gradient (authors: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch, self.images, self.draw_steps) < 1 or self.prior < 0 or self.clip <= 0:
            raise UsageError(
                f"batch, images, draw_steps, prior and clip are {self.batch}, {self.images}, {self.draw_steps}, {self.prior} "
                f"and {self.clip}; expected at least 1 of each number, at least 0, and above 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A target and an output of each picture, and another output by the prior."""
        count = self.batch * (2 if self.prior else 1)
        return self.each_step(forward=self.batch * (self.target == "model"), back=count, together=count)


PUBLISHED: Mapping[str, Any] = {"images": 1000, "detach_bos": True}
"""The authors' numbers; their random crops of the pictures are left out."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures of anchor prompts on which it trains."""
    return config.images


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z, p_c) − sg ε(z, p_a)|² [+ λ |ε(z, p_a) − ξ|²], z a picture of the anchor's prompt p_a with noise ξ."""
    import torch

    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.images import draw_concept_images, noised, pairs_of
    from efface.training.result import trained_erasure
    from efface.training.targets import apart
    from efface.training.terms import begin_detached, retained

    pairs = pairs_of(concepts, config.images)
    settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
    pictures = draw_concept_images(model, [anchor for anchor, _ in pairs], config.images, settings)

    def loss(step: Step) -> Tensor:
        x = pictures.batch(config.batch, config.seed, step.number)
        z, xi = noised(model, x)
        p_a, p_c = (model.encode(side) for side in zip(*(pairs[i % len(pairs)] for i in x.members), strict=True))
        with torch.no_grad(), step.edited():
            target = step.predict(z, p_a) if config.target == "model" else xi
        with step.edited(), begin_detached(model, config.detach_bos):
            value = apart(model, step.predict(z, p_c), target, z.timestep, config.loss_in)
            if config.prior:
                value = value + config.prior * apart(model, step.predict(z, p_a), xi, z.timestep, config.loss_in)
        return value + retained(step, config.keep or (), config)

    held = holder(weights_of(model, config.where), config.rank, config.seed)
    optimiser = torch.optim.AdamW(held.parameters, lr=config.lr, weight_decay=0.0)
    return trained_erasure(model, "ca", concepts, config, held, loss, optimiser=optimiser, clip=config.clip)
