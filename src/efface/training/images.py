"""The original model's own pictures of a concept, for attacks that learn from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.attacks.base import Case, drawn_latents, generator

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


def album(case: Case, count: int, prompts: Sequence[str] | None = None) -> Album:
    """Draw `count` pictures with the original model, of the concept's prompts or of others."""
    given = list(prompts or case.concept.prompts())
    chosen = [given[i % len(given)] for i in range(count)]
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    latents = drawn_latents(case.original, chosen, seeds, case.settings, batch=16)
    return Album(chosen, latents, case.model.pipeline.scheduler.config.num_train_timesteps)
