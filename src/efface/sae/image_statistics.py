"""Which latents of image features respond to a concept: their means over pictures of it, and over pictures of other things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from efface.errors import UsageError
from efface.models.image_sites import ImageSite
from efface.models.vlm import VisionLanguageModel
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.statistics import Statistics, least_active, spatial_means

BATCH = 64
"""Pictures at a time."""


@torch.no_grad()
def image_statistics(
    vlm: VisionLanguageModel,
    site: ImageSite,
    sae: SparseAutoencoder,
    pictures: Mapping[str, Sequence[Image.Image]],
) -> Statistics:
    """Mean activations of a site's latents by concept, as SAeUron's statistics with one timestep.

    Args:
        vlm: reads the pictures.
        site: where the autoencoder reads.
        sae: the autoencoder.
        pictures: name of a concept -> pictures of it; all of them are compared with each other.

    Raises:
        UsageError: a concept has no picture.
    """
    lacking = [name for name, shown in pictures.items() if not shown]
    if lacking:
        raise UsageError(f"there is no picture of {lacking[0]!r}: give some.")
    rule = sae.at_inference()
    means, cutoffs = [], []
    for shown in pictures.values():
        sums = torch.zeros(sae.config.latents)
        for start in range(0, len(shown), BATCH):
            states = vlm.features(shown[start : start + BATCH], site)
            code = rule.encode(states.flatten(0, 1))
            sums += spatial_means(code, len(states), states.shape[1], sae.config.latents).sum(0)
            cutoffs.append(float(least_active(code).mean()))
        means.append(sums / len(shown))
    return Statistics(
        concepts=tuple(pictures),
        kinds=("picture",) * len(pictures),
        timesteps=torch.zeros(1),
        means=torch.stack(means)[:, None],
        cutoff=torch.tensor([sum(cutoffs) / len(cutoffs)]),
        pictures=sum(map(len, pictures.values())),
        counts=tuple(map(len, pictures.values())),
    )
