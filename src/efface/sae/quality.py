"""Quality of an autoencoder: unexplained variance beside PCA's, latents that never fire, harm to the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.families.sites import Site
from efface.models.batches import in_batches
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.harvest import HarvestConfig, sites_of


class Quality(NamedTuple):
    """Figures of an autoencoder on vectors it was not trained on."""

    fvu: dict[int, float]
    """k -> share of the variance left by the k largest latents of each vector."""
    pca: dict[int, float]
    """k -> share left by the first k principal components of the same vectors."""
    l0: float
    """Active latents per vector under the autoencoder's own rule at inference."""
    fvu_own: float
    """Share of the variance left under that rule."""
    never_fired: float
    """Share of latents that never fired on these vectors."""


@torch.no_grad()
def quality(sae: SparseAutoencoder, x: Tensor, ks: Sequence[int] = (8, 16, 32), *, batch: int = 8192) -> Quality:
    """Measure an autoencoder on held-out vectors (rows width)."""
    sae = sae.at_inference()
    zeros = torch.zeros(x.shape[1], dtype=torch.float64)
    mean = sum((part.double().sum(0) for part in x.split(batch)), zeros) / len(x)
    centred = ((part.double() - mean) for part in x.split(batch))
    scatter = sum((part.T @ part for part in centred), torch.outer(zeros, zeros))
    total = float(scatter.trace())
    spectrum = torch.linalg.eigvalsh(scatter).flip(0).clamp(min=0)
    pca = {k: float(spectrum[k:].sum() / spectrum.sum()) for k in ks}
    fvu = {k: _unexplained(with_topk(sae, k), x, batch) / total for k in ks}
    fired = torch.zeros(sae.config.latents, dtype=torch.bool)
    active = 0
    left = 0.0
    for part in map(Tensor.float, x.split(batch)):
        code = sae.encode(part)
        fired[code.latents] = True
        active += len(code.values)
        left += float((sae.decode(code) - part).double().square().sum())
    return Quality(
        fvu=fvu,
        pca=pca,
        l0=active / len(x),
        fvu_own=left / total,
        never_fired=1 - float(fired.float().mean()),
    )


def with_topk(sae: SparseAutoencoder, k: int) -> SparseAutoencoder:
    """An autoencoder with the same weights that keeps the k largest latents of each vector."""
    other = SparseAutoencoder.sharing(sae)
    other.config = replace(sae.config, k=k, rule="topk")
    return other


def _unexplained(sae: SparseAutoencoder, x: Tensor, batch: int) -> float:
    """Summed squared error of the reconstructions of vectors (rows width)."""
    return sum(float((sae(part) - part).double().square().sum()) for part in map(Tensor.float, x.split(batch)))


@contextmanager
def reconstruct_sites(saes: dict[str, SparseAutoencoder], sites: Sequence[Site]) -> Any:
    """Context in which what autoencoders read of their sites is replaced by their reconstructions."""

    def hook_of(site: Site) -> Any:
        sae = saes[site.name].at_inference()

        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            states = site.states(args, kwargs, output)
            rebuilt = sae(states).to(states.dtype)
            return site.add(output, rebuilt - states) if site.difference else site.write(output, rebuilt)

        return hook

    handles = [site.module.register_forward_hook(hook_of(site), with_kwargs=True) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def finished_latents(model: Model, prompts: Sequence[str], seeds: Sequence[int], config: HarvestConfig) -> Tensor:
    """VAE latents (batch channels height width) after the last denoising step, used as clean images."""
    return model.latents(
        model.encode(prompts), seeds=list(seeds), steps=config.steps, guidance=config.guidance, side=config.side
    )


@torch.no_grad()
def denoising_losses(
    model: Model, clean: Tensor, prompts: Sequence[str], saes: dict[str, SparseAutoencoder], *, seed: int = 0
) -> dict[str, float]:
    """Mean squared error of the predicted noise: unmodified ("plain"), and with each site's output reconstructed.

    Args:
        model: the denoiser; its own predictions for the same noisy latents are compared.
        clean: latents (batch channels height width).
        prompts: prompt of each latent.
        saes: autoencoder of each site, by its name.
        seed: seed of the noise and the timesteps.
    """
    generator = torch.Generator().manual_seed(seed)
    timestep = torch.randint(model.num_train_timesteps, (len(clean),), generator=generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noisy = model.to_noisy(clean, noise, timestep)
    text = model.encode(prompts)

    def loss() -> float:
        return sum(in_batches(model.networks()[0].module, "drawing", len(clean), shape, size, squares)) / noise.numel()

    def squares(some: slice) -> float:
        output = model.predict(noisy[some], timestep[some], text.part(some))
        predicted = model.to_noise(output, noisy[some], timestep[some])
        return float((predicted - noise[some]).float().square().sum())

    _, *rest = clean.shape
    shape = (rest[0], rest[1], rest[2])
    size = model.pictures_at_a_time(len(clean), shape, guidance=1.0)

    losses = {"plain": loss()}
    for name, sae in saes.items():
        with reconstruct_sites({name: sae}, sites_of(model, (name,), {name: sae})):
            losses[name] = loss()
    return losses
