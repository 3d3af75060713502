"""Noisy latents that trained erasers learn on, each with the timestep that is exactly its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.families.base import Side
from efface.models.model import Model, Text


class Noisy(NamedTuple):
    """Noisy latents, as the denoiser reads them."""

    z: Tensor
    """Latents (batch channels height width)."""
    timestep: Tensor
    """Their timestep (0 to 1000), one for all."""


class _ReachedError(Exception):
    """The sampler is where it was to stop."""


def rolled(model: Model, text: Text, after: int, seed: int, *, steps: int, guidance: float, side: Side) -> Noisy:
    """What the denoiser reads after `after` of `steps` sampler steps, from noise, under a text (R of the papers).

    The timestep is the scheduler's own for these latents. Most public codes query another one: 39 to 58 of 1000 too high
    in those that go back to ESD's of 2023 (a sampler that stops one step late, and a draw from the bucket above).

    Raises:
        UsageError: `after` is not in 0 … steps − 1.
    """
    if not 0 <= after < steps:
        raise UsageError(f"{after} of {steps} sampler steps were asked for; expected 0 to {steps - 1}.")
    found: list[Noisy] = []

    def watch(noisy: Tensor, timestep: float) -> None:
        if after == seen[0]:
            found.append(Noisy(noisy.clone(), torch.tensor(timestep, device=noisy.device)))
            raise _ReachedError
        seen[0] += 1

    seen = [0]
    count = len(text.states)
    options: Any = {"steps": steps, "guidance": guidance, "side": side, "watch": watch}
    try:
        for _ in model.denoise(text, seeds=range(seed, seed + count), **options):
            pass
    except _ReachedError:
        return found[0]
    raise UsageError(f"the sampler took only {seen[0]} of {steps} steps; choose fewer.")
