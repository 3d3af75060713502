"""Steer one latent: multiply it, or add to it on a region, while the model draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.harvest import require_denoiser, sites_of


class Region(NamedTuple):
    """A rectangle of the picture, in fractions of its width and height (0 to 1)."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def mask(self, tokens: int, ratio: float = 1.0) -> Tensor:
        """Mask of the positions of a map that lie inside (tokens,); `ratio` is the picture's height by its width."""
        height = round((tokens * ratio) ** 0.5)
        rows, columns = ((torch.arange(size) + 0.5) / size for size in (height, tokens // height))
        inside = (rows >= self.top) & (rows < self.bottom)
        return (inside[:, None] & ((columns >= self.left) & (columns < self.right))[None]).flatten()


@contextmanager
def steer_latent(
    model: Model,
    site: str,
    sae: SparseAutoencoder,
    latent: int,
    *,
    multiply: float = 1.0,
    add: float = 0.0,
    region: Region | None = None,
    ratio: float = 1.0,
) -> Iterator[None]:
    """Context in which a latent z becomes multiply·z + add at every position of the region.

    Multiplying changes positions at which it is active; adding paints it everywhere in the region, in units of its
    activations. `ratio` is the pictures' height by their width.

    Raises:
        UsageError: the autoencoder has no such latent, or the region is empty.
    """
    if not 0 <= latent < sae.config.latents:
        raise UsageError(f"the autoencoder has no latent {latent}: expected 0 to {sae.config.latents - 1}.")
    if region and not (region.left < region.right and region.top < region.bottom):
        raise UsageError(
            f"the region {tuple(region)} is empty: give left, top, right, bottom with left < right, top < bottom."
        )
    hooked = sites_of(model, (site,), {site: sae})[0]
    require_denoiser([hooked])
    sae = sae.at_inference()

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        states = hooked.states(args, kwargs, output).float()
        z = sae.encode(states.flatten(0, 1)).dense(sae.config.latents)[:, latent].view(states.shape[:2])
        change = (multiply - 1) * z + add
        if region:
            change = change * region.mask(states.shape[1], ratio).to(change)
        return hooked.add(output, (change[..., None] * sae.W_dec[latent]).to(hooked.read(output).dtype))

    handle = hooked.module.register_forward_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            yield
    finally:
        handle.remove()
