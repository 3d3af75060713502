"""Trajectories of a sampler whose every step is a draw from a Gaussian, and the densities of their steps.

With z = a x + b ε at each noise level, levels from the noisiest (j = 0) on, noise is added from level j + 1 to j by

    q(z_j | z_{j+1}) = N(k z_{j+1}, v),      k = a_j / a_{j+1},  v = b_j² − k² b_{j+1}²,

and taken away by q(z_{j+1} | z_j, x̂) with the clean latents x̂ that the model sees in z_j,

    p(z_{j+1} | z_j) = N(a_{j+1} x̂ + k (b_{j+1} / b_j)² (z_j − a_j x̂), v (b_{j+1} / b_j)²).

For models of noise and v this is DDIM with η = 1 (Song et al., arXiv 2010.02502), and it is as well defined for flows (a = 1 − b).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.families.base import Side
from efface.families.schedule import mixture, prediction_of
from efface.families.text import concatenate
from efface.models.model import Model, Text

LEAST = 1e-4
"""Smallest variance of a step: at the end of a schedule it goes to 0, and a density there would outweigh all others."""


class Levels(NamedTuple):
    """Noise levels of a trajectory."""

    timesteps: Tensor
    """Timestep of each step, the noisiest first (steps,)."""
    a: Tensor
    """Share of the clean latents at each level, and at the end (steps + 1,), in float64."""
    b: Tensor
    """Share of the noise (steps + 1,)."""

    def forward(self, j: int) -> tuple[float, float]:
        """k and v of q(z_j | z_{j+1})."""
        k = float(self.a[j] / self.a[j + 1])
        return k, max(LEAST, float(self.b[j] ** 2 - (k * self.b[j + 1]) ** 2))

    def backward(self, j: int, clean: Tensor, z: Tensor) -> tuple[Tensor, float]:
        """Mean (like z) and variance of p(z_{j+1} | z_j)."""
        k = float(self.a[j] / self.a[j + 1])
        share = float((self.b[j + 1] / self.b[j]) ** 2)
        variance = share * float(self.b[j] ** 2 - (k * self.b[j + 1]) ** 2)
        mean = float(self.a[j + 1]) * clean + k * share * (z - float(self.a[j]) * clean)
        return mean, max(LEAST, variance)


def levels_of(model: Model, steps: int, latents: Tensor) -> Levels:
    """The levels that the model's scheduler takes for so many steps of pictures like `latents`."""
    scheduler = copy.deepcopy(model.pipeline.scheduler)
    model.family.set_timesteps(scheduler, steps, latents)
    timesteps = torch.unique_consecutive(scheduler.timesteps.cpu())
    end = timesteps.new_tensor(1 if prediction_of(scheduler) == "flow" else 0)
    mixed = [mixture(scheduler, t, torch.zeros((), dtype=torch.float64)) for t in (*timesteps[timesteps > end], end)]
    a, b = (
        torch.stack([share.flatten()[0] for share in shares])
        for shares in zip(*((m.a, m.b) for m in mixed), strict=True)
    )
    return Levels(timesteps[timesteps > end], a, b)


def seen(model: Model, levels: Levels, steps: Sequence[int], z: Tensor, text: Text, guidance: float) -> Tensor:
    """x̂: the clean latents that the model sees in those of some steps (steps channels height width), under a text and guidance."""
    t = levels.timesteps[list(steps)].to(z.device)
    both = concatenate([model.encode_negative(None).repeat(len(z)), text.repeat(len(z))])
    nothing, conditional = model.predict(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
    output = model.family.guide(nothing, conditional, guidance)
    return model.to_clean(output, z, t).float()


def predicted(model: Model, levels: Levels, j: int, z: Tensor, text: Text, guidance: float) -> tuple[Tensor, float]:
    """Mean and variance of p(z_{j+1} | z_j, text) under guidance."""
    return levels.backward(j, seen(model, levels, [j] * len(z), z, text, guidance), z.float())


@torch.no_grad()
def trajectory(model: Model, levels: Levels, text: Text, seed: int, guidance: float, side: Side) -> Tensor:
    """z_0 … z_steps (steps + 1, 1 channels height width), drawn by the model as it is under a text."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, *model.family.latent_shape(side))
    z = torch.randn(shape, generator=generator).to(text.states.device)
    found = [z]
    for j in range(len(levels.timesteps)):
        mean, variance = predicted(model, levels, j, z.to(text.states.dtype), text, guidance)
        z = mean + math.sqrt(variance) * torch.randn(shape, generator=generator).to(mean)
        found.append(z)
    return torch.stack(found)


def log_density(z: Tensor, mean: Tensor, variance: float) -> Tensor:
    """log N(z; mean, variance), the mean over elements."""
    return -0.5 * ((z - mean).square().mean() / variance + math.log(2 * math.pi * variance))
