"""A model's own pictures of a concept, noised in batches, for methods that train on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.concepts.concept import Concept, default_anchor
from efface.concepts.sample import SEEDS
from efface.errors import UsageError
from efface.models.course import FromPicture
from efface.models.model import Model, Settings
from efface.models.sampling import generator, sample_latents
from efface.training.latents import Noisy


class NoisedBatch(NamedTuple):
    """A batch of pictures at random timesteps."""

    members: list[int]
    """Indices of the pictures (batch,)."""
    clean: Tensor
    """Clean latents (batch channels height width)."""
    noise: Tensor
    """Noise to add to them (batch channels height width)."""
    timesteps: Tensor
    """Timestep of each (batch,)."""


class ConceptImages(NamedTuple):
    """Pictures of a concept as clean latents."""

    prompts: list[str]
    """Prompt of each picture."""
    latents: Tensor
    """Clean latents (pictures channels height width)."""
    num_train_timesteps: int
    """Timesteps of the model's schedule, or fewer where the noisiest are left out."""

    def batch(self, size: int, *numbers: int) -> NoisedBatch:
        """A batch of `size` random pictures, noise and timesteps, all determined by `numbers`."""
        g = generator("album", *numbers)
        members = torch.randint(len(self.prompts), (size,), generator=g).tolist()
        clean = self.latents[members]
        noise = torch.randn(clean.shape, generator=g).to(clean)
        timesteps = torch.randint(self.num_train_timesteps, (size,), generator=g).to(clean.device)
        return NoisedBatch(members=members, clean=clean, noise=noise, timesteps=timesteps)


def draw_concept_images(model: Model, prompts: Sequence[str], count: int, settings: Settings) -> ConceptImages:
    """Draw `count` pictures of prompts, taken in turn, with the model and the erasures attached to it."""
    chosen = [prompts[i % len(prompts)] for i in range(count)]
    seeds = range(SEEDS.images, SEEDS.images + count)
    latents = sample_latents(model, chosen, seeds, settings, batch=16)
    return ConceptImages(chosen, latents, model.num_train_timesteps)


def drawn_over(
    model: Model, pictures: ConceptImages, prompts: Sequence[str], skipped: int, settings: Any
) -> ConceptImages:
    """Pictures drawn again under other prompts, taken in turn, by image-to-image with so many steps left out."""
    count = len(pictures.prompts)
    chosen = [prompts[i % len(prompts)] for i in range(count)]
    shape = model.family.latent_shape(settings.get("side"))
    size = min(16, model.pictures_at_a_time(count, shape, settings["guidance"]))
    latents = []
    for first in range(0, count, size):
        some = slice(first, first + size)
        course = FromPicture(pictures.latents[some], skipped)
        seeds = range(SEEDS.images, SEEDS.images + count)[some]
        *_, (_, clean) = model.denoise(model.encode(chosen[some]), seeds=seeds, course=course, **settings)
        latents.append(clean)
    return ConceptImages(chosen, torch.cat(latents), pictures.num_train_timesteps)


def pairs_of(concepts: Sequence[Concept], images: int) -> list[tuple[str, str]]:
    """Anchor prompt and prompt of every concept, of which pictures are drawn in turn.

    Raises:
        UsageError: there are fewer pictures than prompts, so that some would have none.
    """
    pairs = [
        pair
        for concept in concepts
        for pair in zip(concept.anchors(default_anchor(concept)), concept.prompts(), strict=True)
    ]
    if images < len(pairs):
        raise UsageError(f"images is {images} for {len(pairs)} prompts; expected at least one picture of each.")
    return pairs


def noised(model: Model, x: NoisedBatch) -> tuple[Noisy, Tensor]:
    """A batch with its noise added, and the raw output that is right for it (batch channels height width)."""
    z = Noisy(model.to_noisy(x.clean, x.noise, x.timesteps), x.timesteps)
    return z, model.to_output(x.clean, x.noise, x.timesteps)
