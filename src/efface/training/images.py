"""A model's own pictures of a concept, for what learns from pictures, noised in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.models.model import Model, Settings
from efface.models.sampling import drawn_latents, generator

FIRST_SEED = 60_000
"""Of an album's pictures; no try has one of these."""


class Sight(NamedTuple):
    """A batch of pictures at random timesteps."""

    members: list[int]
    """Which pictures of the album they are."""
    clean: Tensor
    """(batch channels height width)"""
    noise: Tensor
    levels: Tensor
    """(batch,)"""


class Album(NamedTuple):
    """Pictures as clean latents."""

    prompts: list[str]
    latents: Tensor
    """(pictures channels height width)"""
    most: int
    """Timesteps of the model's schedule."""

    def batch(self, size: int, *numbers: int) -> Sight:
        """So many pictures, with noise and timesteps that `numbers` determine."""
        g = generator("album", *numbers)
        members = torch.randint(len(self.prompts), (size,), generator=g).tolist()
        clean = self.latents[members]
        noise = torch.randn(clean.shape, generator=g).to(clean)
        return Sight(members, clean, noise, torch.randint(self.most, (size,), generator=g).to(clean.device))


def album(model: Model, prompts: Sequence[str], count: int, settings: Settings) -> Album:
    """Draw `count` pictures of prompts, taken in turn, with a model as it stands."""
    chosen = [prompts[i % len(prompts)] for i in range(count)]
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    latents = drawn_latents(model, chosen, seeds, settings, batch=16)
    return Album(chosen, latents, model.pipeline.scheduler.config.num_train_timesteps)
