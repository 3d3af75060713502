"""A model's own pictures of a concept, for what learns from pictures, noised in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.concepts.sample import SEEDS
from efface.models.model import Model, Settings
from efface.models.sampling import generator, sample_latents


class NoisedBatch(NamedTuple):
    """A batch of pictures at random timesteps."""

    members: list[int]
    """Which pictures of the album they are."""
    clean: Tensor
    """(batch channels height width)"""
    noise: Tensor
    levels: Tensor
    """(batch,)"""


class ConceptImages(NamedTuple):
    """Pictures as clean latents."""

    prompts: list[str]
    latents: Tensor
    """(pictures channels height width)"""
    most: int
    """Timesteps of the model's schedule."""

    def batch(self, size: int, *numbers: int) -> NoisedBatch:
        """So many pictures, with noise and timesteps that `numbers` determine."""
        g = generator("album", *numbers)
        members = torch.randint(len(self.prompts), (size,), generator=g).tolist()
        clean = self.latents[members]
        noise = torch.randn(clean.shape, generator=g).to(clean)
        return NoisedBatch(members, clean, noise, torch.randint(self.most, (size,), generator=g).to(clean.device))


def album(model: Model, prompts: Sequence[str], count: int, settings: Settings) -> ConceptImages:
    """Draw `count` pictures of prompts, taken in turn, with a model as it stands."""
    chosen = [prompts[i % len(prompts)] for i in range(count)]
    seeds = range(SEEDS.images, SEEDS.images + count)
    latents = sample_latents(model, chosen, seeds, settings, batch=16)
    return ConceptImages(chosen, latents, model.num_train_timesteps)
