"""ESD: a model unlearns what its own guidance towards a concept would add (Gandikota et al., ICCV 2023, arXiv 2303.07345)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of ESD; defaults are those of its authors' code of today, with the timestep that belongs to the latents."""

    where: Where = "cross"
    """Trained weights: `cross` is ESD-x (styles), `rest` ESD-u (nudity), `text` the strict variant of today's code."""
    eta: float = 2.0
    """η, how far the target lies on the other side of the host prompt (today's code: 2; 1 for SDXL)."""
    form: Literal["today", "2023"] = "today"
    """`today`: the target is ε₀(c) − η(ε₀(c) − ε₀(∅)), latents rolled by the frozen model; `2023`: ε₀(∅) − η(ε₀(c) − ε₀(∅)),
    latents rolled by the edited one. The first with η + 1 has the target of the second with η."""
    lr: float = 5e-5
    """Learning rate of Adam (today's code: 5e-5; 2023: 1e-5 for 1000 iterations)."""

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll, a target of two texts, and an output."""
        return self.each_step(forward=self.rolled + 2, back=1, together=1)


PUBLISHED: Mapping[str, Any] = {"form": "2023", "eta": 1.0, "lr": 1e-5, "iterations": 1000}
"""The paper's; its code queried a timestep 39 to 58 of 1000 above that of its latents, which is not repeated."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z, c) − [w_c ε₀(z, c) + w_∅ ε₀(z, ∅)]|², one concept a step, at latents z rolled under its prompt."""
    import torch

    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.result import trained_erasure
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    prompts = [prompt for concept in concepts for prompt in concept.prompts()]
    empty = model.encode([""])
    w_c, w_empty = weights(config)

    def loss(step: Step) -> Tensor:
        c = model.encode([step.pick(prompts)])
        if config.form == "today":
            z = roll(step, c, config)
        else:
            with torch.no_grad(), step.edited():
                z = roll(step, c, config, by_edited=True)
        target = mix(model, z, [(c, w_c), (empty, w_empty)])
        with step.edited():
            output = step.predict(z, c)
        return apart(model, output, target, z.timestep, config.loss_in) + retained(step, config.keep or (), config)

    held = holder(weights_of(model, config.where), config.rank, config.seed)
    return trained_erasure(model, "esd", concepts, config, held, loss)


def weights(config: Config) -> tuple[float, float]:
    """Weights of ε₀(c) and ε₀(∅) in the target, which add up to 1."""
    eta = config.eta if config.form == "today" else config.eta + 1
    return 1 - eta, eta
