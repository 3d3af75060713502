"""What an autoencoder is worth: variance left, beside principal components; latents that never fire; harm to the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.autoencoder import Coder
from efface.sae.harvest import HarvestConfig


class Quality(NamedTuple):
    """Figures of an autoencoder on vectors it was not trained on."""

    fvu: dict[int, float]
    """k -> share of the variance left by the k largest latents of each vector."""
    pca: dict[int, float]
    """k -> share left by the first k principal components of the same vectors."""
    l0: float
    """Active latents of a vector under the coder's own rule at inference."""
    fvu_own: float
    """Share left under that rule."""
    silent: float
    """Share of latents that never fired on these vectors."""


@torch.no_grad()
def quality(coder: Coder, x: Tensor, ks: Sequence[int] = (8, 16, 32), *, batch: int = 8192) -> Quality:
    """Measure an autoencoder on held-out vectors (rows width)."""
    coder = coder.at_inference()
    centred = (x - x.mean(0)).double()
    total = float(centred.square().sum())
    spectrum = torch.linalg.eigvalsh(centred.T @ centred).flip(0).clamp(min=0)
    pca = {k: float(spectrum[k:].sum() / spectrum.sum()) for k in ks}
    fvu = {k: _left(of_k(coder, k), x, batch) / total for k in ks}
    fired = torch.zeros(coder.config.latents, dtype=torch.bool)
    active, left = 0, 0.0
    for part in x.split(batch):
        code = coder.encode(part)
        fired[code.latents] = True
        active += len(code.values)
        left += float((coder.decode(code) - part).double().square().sum())
    return Quality(fvu, pca, active / len(x), left / total, 1 - float(fired.float().mean()))


def of_k(coder: Coder, k: int) -> Coder:
    """The same weights with the k largest latents of each vector active."""
    other = Coder.sharing(coder)
    other.config = replace(coder.config, k=k, rule="topk")
    return other


def _left(coder: Coder, x: Tensor, batch: int) -> float:
    return sum(float((coder(part) - part).double().square().sum()) for part in x.split(batch))


@contextmanager
def replaced(coders: dict[str, Coder], sites: Sequence[Site]) -> Any:
    """While active, the outputs of the sites are their autoencoders' reconstructions."""

    def hook_of(site: Site) -> Any:
        coder = coders[site.name].at_inference()

        def hook(module: Any, args: Any, output: Any) -> Any:
            states = site.read(output)
            return site.write(output, coder(states).to(states.dtype))

        return hook

    handles = [site.module.register_forward_hook(hook_of(site)) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def finished_latents(model: Model, prompts: Sequence[str], seeds: Sequence[int], config: HarvestConfig) -> Tensor:
    """The latents (batch channels height width) at the end of drawing, to stand for clean ones."""
    latents = torch.empty(0)
    for _, latents in model.denoised(model.encode(prompts), seeds=seeds, steps=config.steps, guidance=config.guidance):  # noqa: B007
        pass
    return latents


@torch.no_grad()
def denoising_losses(
    model: Model, clean: Tensor, prompts: Sequence[str], coders: dict[str, Coder], *, seed: int = 0
) -> dict[str, float]:
    """Mean squared error of the predicted noise, as it is ("plain") and with each site replaced by its reconstruction.

    Args:
        model: the denoiser; its own predictions for the same noisy latents are compared.
        clean: latents (batch channels height width).
        prompts: one each.
        coders: site name -> autoencoder.
        seed: of noise and levels.
    """
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(1000, (len(clean),), generator=generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noisy = model.to_noisy(clean, noise, level)
    text = model.encode(prompts)

    def loss() -> float:
        predicted = model.to_noise(model.predict(noisy, level, text), noisy, level)
        return float((predicted - noise).float().square().mean())

    losses = {"plain": loss()}
    for name, coder in coders.items():
        with replaced({name: coder}, model.sites(name)):
            losses[name] = loss()
    return losses
