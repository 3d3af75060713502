"""A text-to-image model as a denoiser of pictures: one step with the empty prompt, at the timestep whose noise is the pictures'
own.

Noise on pixels is no white noise after the autoencoder. Latents of noisy pictures are regressed on those of clean ones, z' =
c z + s ε, and the timestep is the one with b / a = s / c. A smoothed judge's certificate does not depend on how well this fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from efface.errors import UsageError
from efface.families.base import execution_device
from efface.families.schedule import mixture
from efface.models.model import Model
from efface.models.pictures import compressed, pixels_of


def picture_denoiser(model: Model, sigma: float, pictures: Sequence[Image.Image]) -> Callable[[Tensor], Tensor]:
    """What takes normal noise off pixels in 0 to 1 (batch 3 height width), with gradients; pixels in 0 to 1 come back.

    Args:
        model: with an autoencoder that reads pictures.
        sigma: standard deviation of the noise, of pixels in 0 to 1.
        pictures: some of the model's own, of one size, on which the timestep is found.

    Raises:
        EffaceError: the pipeline has no autoencoder.
        UsageError: no picture was given.
    """
    if not pictures:
        raise UsageError("a denoiser is fitted on pictures of the model, and none was given.")
    shrunk, spread = latent_noise(model, sigma, pixels_of(pictures))
    timestep = nearest_timestep(model, spread / shrunk)
    text = model.encode([""])
    device = execution_device(model.pipeline)

    def denoise(noisy: Tensor) -> Tensor:
        latents = model.family.compress((noisy * 2 - 1).to(device)).to(text.states.dtype) / shrunk
        mix = mixture(model.pipeline.scheduler, timestep, latents)
        z = mix.a * latents
        output = model.predict(z, timestep, text.repeat(len(z)))
        return (model.family.decode(mix.clean(output, z)).float().clamp(-1, 1).to(noisy.device) + 1) / 2

    return denoise


@torch.no_grad()
def latent_noise(model: Model, sigma: float, pixels: Tensor) -> tuple[float, float]:
    """c and s of latents of noisy pictures, regressed on those of the clean ones (pixels in −1 to 1, batch 3 height width)."""
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    clean = compressed(model, pixels).double()
    noisy = compressed(model, pixels + 2 * sigma * noise).double()  # twice as wide a range has twice the noise
    centred = clean - clean.mean()
    shrunk = float((centred * (noisy - noisy.mean())).sum() / centred.square().sum())
    left = noisy - noisy.mean() - shrunk * centred
    return max(shrunk, 1e-3), float(left.square().mean().sqrt())


def nearest_timestep(model: Model, ratio: float) -> Tensor:
    """The timestep whose noise over signal, b / a, is nearest to a ratio."""
    timesteps = torch.arange(1, model.num_train_timesteps)
    mix = mixture(model.pipeline.scheduler, timesteps, torch.zeros(1, dtype=torch.float64))
    return timesteps[(mix.b / mix.a - ratio).abs().argmin()]
