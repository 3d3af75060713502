"""Sculpting Memory: concepts are forgotten one after the other, each in those entries of the weights that matter to it most
(Sculpting Memory, ICCV 2025, github.com/coulsonlee/Sculpting-Memory-ICCV-2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, check_weights
from efface.errors import UsageError
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.training.entries import Entries, EntryAdam
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of Sculpting Memory; defaults are its authors', with what their paper says where their code does otherwise."""

    where: Where = "cross"
    """Trained weights (authors: cross-attention)."""
    iterations: int = 500
    """Steps for each concept, the first of which only look at gradients (authors: 10 epochs of 50)."""
    warmup: int = 50
    """Steps that only add gradients up, for the first choice of entries (authors: 50)."""
    density: float = 0.5
    """Share of the entries of each tensor that are trained for a concept, of those that are not frozen (authors: 0.5)."""
    turnover: float = 0.2
    """Share of these entries that change places with others at first; it falls to 0 along a half wave of the cosine (authors: 0.2)."""
    turn_every: int = 100
    """Steps from one such change to the next (authors: 100)."""
    until: float = 0.8
    """Share of a concept's steps after which none changes any more (authors: 0.8)."""
    freeze: bool = True
    """Whether entries that were trained for a concept stay as they are while later ones are forgotten."""
    align: float = 0.25
    """Weight of |ε(z_a, a) − ξ|² on the anchor's pictures (authors: 0.25)."""
    distil: float = 0.25
    """Weight of |ε(z_a, a) − ε_prev(z_a, a)|², ε_prev the model before this concept (authors: 0.25)."""
    lr: float = 3e-6
    """Largest learning rate of Adam; it rises for 30% of a concept's steps and falls after (authors: 3e-6)."""
    batch: int = 2
    """Pictures of the concept and of its anchor a step (authors: 2)."""
    images: int = 100
    """Pictures of each concept, and of each anchor, that the model draws first (authors: 100)."""
    draw_steps: int = 50
    """Sampler steps of those pictures."""
    guidance: float = 7.5
    """Guidance scale of those pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "align", "distil")
        if self.rank is not None:
            raise UsageError(
                f"rank is {self.rank}; entries of weights are chosen here, which low-rank factors have not: leave it out."
            )
        if not 1 <= self.warmup < self.iterations or min(self.batch, self.turn_every) < 1 or self.images < self.batch:
            raise UsageError(
                f"warmup, batch, turn_every and images are {self.warmup}, {self.batch}, {self.turn_every} and {self.images}; "
                f"expected at least 1 of each, fewer steps of warm-up than the {self.iterations}, and a batch of pictures."
            )
        if not 0 < self.density <= 1 or not 0 <= self.turnover <= 1 or not 0 <= self.until <= 1:
            raise UsageError(
                f"density, turnover and until are {self.density}, {self.turnover} and {self.until}; expected shares of 0 to 1, "
                "the first above 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A target and an output of the concept's pictures and of the anchor's."""
        return self.each_step(forward=2 * self.batch, back=2 * self.batch, together=2 * self.batch).times(len(concepts))


PUBLISHED: Mapping[str, Any] = {"freeze": False, "distil": 0.0}
"""What the authors' code does: it never fills its list of frozen entries, and overwrites the distillation term. It also keeps the
checkpoint of the least loss, lets moments move entries that are no longer trained and, as PyTorch's schedule does, cycles Adam's
first coefficient; that is not repeated."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures of concepts and anchors on which it trains."""
    return 2 * config.images * len(concepts)


def share(config: Config, step: int) -> float:
    """τ, the share of a concept's entries that change places after one of its steps; 0 after most of none."""
    if (step + 1) % config.turn_every or step + 1 <= config.warmup:
        return 0.0
    epoch = max(1, config.images // config.batch)
    epochs = config.iterations / epoch
    done = step // epoch
    return 0.0 if done >= int(config.until * epochs) else config.turnover / 2 * (1 + cos(pi * done / epochs))


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z_c, c) − sg ε(z_c, a)|² + λ₁ |ε(z_a, a) − ξ|² + λ₂ |ε(z_a, a) − ε_prev(z_a, a)|², in the entries M of largest |Σ g|."""
    import torch

    from efface.training.entries import Entries, EntryAdam
    from efface.training.groups import weights_of
    from efface.training.holders import Dense
    from efface.training.images import draw_concept_images, noised, pairs_of
    from efface.training.result import trained_erasure
    from efface.training.schedules import one_cycle
    from efface.training.targets import apart
    from efface.training.terms import retained

    settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
    pairs = [pairs_of([concept], config.images) for concept in concepts]
    albums = [
        [draw_concept_images(model, side, config.images, settings) for side in zip(*p, strict=True)] for p in pairs
    ]
    held = Dense(weights_of(model, config.where))
    entries = Entries(held.parameters)
    optimiser = EntryAdam(entries, config.lr)

    def loss(step: Step) -> Tensor:
        turn, local = divmod(step.number, config.iterations)
        _choose(entries, optimiser, config, turn, local)
        (of_a, of_c), pair = albums[turn], pairs[turn]
        x_c = of_c.batch(config.batch, config.seed, step.number, 0)
        z_c, xi_c = noised(model, x_c)
        a, c = (model.encode(side) for side in zip(*(pair[i % len(pair)] for i in x_c.members), strict=True))
        if local < config.warmup:
            with step.edited():
                value = apart(model, step.predict(z_c, c), xi_c, z_c.timestep, config.loss_in)
            entries.add(step.gradients(value))
            return value.detach()
        with torch.no_grad(), step.edited():
            target = step.predict(z_c, a)
        with step.edited():
            value = apart(model, step.predict(z_c, c), target, z_c.timestep, config.loss_in)
        x_a = of_a.batch(config.batch, config.seed, step.number, 1)
        value = value + anchored(step, x_a, [pair[i % len(pair)][0] for i in x_a.members])
        value = value + retained(step, config.keep or (), config)
        gradients = step.gradients(value)
        entries.add(gradients)
        step.descend_along(entries.masked(gradients))
        return value.detach()

    def anchored(step: Step, x: Any, prompts: list[str]) -> Tensor:
        z, xi = noised(model, x)
        a = model.encode(prompts)
        with torch.no_grad(), held.active(entries.before):
            previous = step.predict(z, a)
        with step.edited():
            output = step.predict(z, a)
        align = apart(model, output, xi, z.timestep, config.loss_in)
        return config.align * align + config.distil * apart(model, output, previous, z.timestep, config.loss_in)

    def rate(number: int) -> float:
        return one_cycle(max(0, number % config.iterations - config.warmup), config.iterations - config.warmup)

    training: Any = {"optimiser": optimiser, "iterations": config.iterations * len(concepts), "schedule": rate}
    return trained_erasure(model, "sculpting", concepts, config, held, loss, kept=entries, **training)


def _choose(entries: Entries, optimiser: EntryAdam, config: Config, turn: int, local: int) -> None:
    """What happens to the entries before a concept's step."""
    if local == 0:
        entries.begin(freeze=config.freeze and turn > 0)
        optimiser.state.clear()
    elif local == config.warmup:
        entries.choose(config.density)
    elif tau := share(config, local - 1):
        entries.turn_over(tau)
