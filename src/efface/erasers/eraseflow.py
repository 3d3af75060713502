"""EraseFlow: trajectories that the model draws for an anchor become likely for the concept, as in a generative flow network
(NeurIPS 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import EffaceError, UsageError
from efface.training.config import Rolling, Work, halves

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.loop import Step
    from efface.training.trajectory import Levels

Z_START = -0.195
"""Where the learnt log of the flow's total begins (authors)."""


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of EraseFlow; defaults are its authors' for objects."""

    rank: int | None = 4
    """Rank of the factors on queries, keys, values and outputs of every attention (authors: 4)."""
    iterations: int = 20
    """Training steps (authors: 20)."""
    lr: float = 3e-4
    """Learning rate of AdamW (authors: 3e-4; 5e-4 for styles)."""
    guidance: float = 5.0
    """Guidance scale of trajectories and of their densities (authors: 5)."""
    beta: float = 2.5
    """β, log of the reward (authors: 2.5)."""
    fresh: int = 10
    """Step from which the last trajectory is used again (authors: 20 for nudity, 10 for single objects, 0 for styles)."""
    early: int = 10
    """Steps of a trajectory that count, of those before the last (authors: 10 of the first 40)."""
    late: int = 10
    """Last steps of a trajectory, which all count (authors: 10)."""
    together: int = 1
    """Steps of a trajectory that are computed at a time: more take less time and more memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.fresh, self.early, self.late) < 0 or self.early + self.late < 1:
            raise UsageError(
                f"fresh, early and late are {self.fresh}, {self.early} and {self.late}; expected none below 0, and a step that counts."
            )
        if self.together < 1:
            raise UsageError(f"together is {self.together}; expected at least 1.")

    def work(self, concepts: Sequence[Concept]) -> Work:
        """Trajectories at first, and the steps that count, twice each."""
        fresh = min(1, max(self.fresh, len(concepts)) / self.iterations)
        late = min(self.late, self.draw_steps)
        count = (late + min(self.early, self.draw_steps - late)) * halves(self.guidance)
        forward = fresh * self.draw_steps * halves(self.guidance) + count
        together = min(count, self.together * halves(self.guidance))
        return self.each_step(forward=forward, back=count, together=together)


PUBLISHED: Mapping[str, Any] = {
    "lr": lambda concepts: 5e-4 if concepts[0].kind == "style" else 3e-4,
    "fresh": lambda concepts: {"explicit": 20, "style": 0}.get(concepts[0].kind, 10),
}
"""By kind of concept."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = (Z − β + Σ_j [log p_θ(z_{j+1} | z_j, c) − log q(z_j | z_{j+1})])² along a trajectory z that the model as it is draws under
    the anchor; Z is learnt, log-densities are means over elements, concepts take turns.

    Raises:
        UsageError: there are more concepts than steps.
        EffaceError: the model is distilled with guidance, so that no step of it is a draw under guidance.
    """
    import torch

    from efface.concepts.concept import default_anchor
    from efface.training.groups import attention_weights
    from efface.training.holders import holder
    from efface.training.result import trained_erasure
    from efface.training.search import Remembered
    from efface.training.terms import retained
    from efface.training.trajectory import levels_of, trajectory

    if not model.guides(float("inf")):
        raise EffaceError(
            f"this {model.family.name} model is distilled with guidance, and the densities of eraseflow are those of guided steps: "
            "choose another method."
        )
    if config.iterations < len(concepts):
        raise UsageError(
            f"iterations is {config.iterations} for {len(concepts)} concepts, which take turns; expected one each at least."
        )
    each = [list(zip(c.prompts(), c.anchors(default_anchor(c)), strict=True)) for c in concepts]
    pairs = [pair for turn in zip_longest(*each) for pair in turn if pair is not None]
    shape = model.family.latent_shape(config.side)
    levels = levels_of(model, config.draw_steps, torch.zeros(1, *shape))
    steps = len(levels.timesteps)
    kept = Remembered({str(i): torch.zeros(steps + 1, 1, *shape) for i in range(len(pairs))})
    held = holder(attention_weights(model), config.rank, config.seed)
    total = torch.tensor(Z_START, requires_grad=True)

    def loss(step: Step) -> Tensor:
        number = step.number % len(pairs)
        concept, anchor = pairs[number]
        if step.number < max(config.fresh, len(pairs)):
            with step.edited():
                drawn = trajectory(model, levels, model.encode([anchor]), step.seed, config.guidance, config.side)
            kept[str(number)].copy_(drawn)
        chosen = counted(steps, config, step.random)
        with step.edited():
            flow = balance(
                model, levels, kept[str(number)], chosen, model.encode([concept]), config.guidance, config.together
            )
        return (total.to(flow) - config.beta + flow).square() + retained(step, config.keep or (), config)

    optimiser = torch.optim.AdamW([*held.parameters, total], lr=config.lr, weight_decay=0.0)
    return trained_erasure(model, "eraseflow", concepts, config, held, loss, optimiser=optimiser, kept=kept)


def counted(steps: int, config: Config, random: Any) -> list[int]:
    """Steps of a trajectory that count: some of the first, drawn anew, and all of the last."""
    import torch

    first = max(0, steps - config.late)
    some = torch.randperm(first, generator=random)[: config.early].tolist()
    return [*sorted(some), *range(first, steps)]


def balance(
    model: Model, levels: Levels, z: Tensor, chosen: Sequence[int], c: Text, guidance: float, together: int = 1
) -> Tensor:
    """Σ_j [log p(z_{j+1} | z_j, c) − log q(z_j | z_{j+1})]; activations are computed again in the backward pass, so that those of
    so many steps together are in memory at a time."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from efface.training.trajectory import log_density, seen

    def terms(some: Sequence[int]) -> Tensor:
        here, after = (z[[j + i for j in some], 0].to(c.states.device) for i in (0, 1))
        clean = seen(model, levels, some, here.to(c.states.dtype), c, guidance)
        found = []
        for j, x, now, then in zip(some, clean, here.float(), after, strict=True):
            mean, variance = levels.backward(j, x, now)
            k, v = levels.forward(j)
            found.append(log_density(then, mean, variance) - log_density(now, k * then, v))
        return torch.stack(found).sum()

    pieces = [chosen[first : first + together] for first in range(0, len(chosen), together)]
    return torch.stack([checkpoint(terms, piece, use_reentrant=False) for piece in pieces]).sum()
