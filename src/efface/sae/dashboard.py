"""What SAE latents respond to, gathered in one pass over labelled pictures for the pages of `efface sae inspect`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.concepts.sample import Sample
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.harvest import HarvestConfig, capture


class TopPicture(NamedTuple):
    """A picture on which a latent is strong."""

    picture: int
    """Index of the picture."""
    strength: float
    """Mean activation over positions and steps."""
    heat: Tensor
    """Activation at each position, mean over steps (height width)."""


@dataclass(frozen=True)
class FeatureDashboard:
    """Activations of all latents of one site over a set of pictures."""

    site: str
    pictures: tuple[Any, ...]
    """The finished pictures (PIL)."""
    labels: tuple[Sample, ...]
    timesteps: Tensor
    """Timesteps at which activations were read (timesteps,), falling."""
    heat: Tensor
    """Mean activation over steps (pictures tokens latents), in half precision."""
    by_timestep: Tensor
    """Mean activation over positions and pictures (timesteps latents)."""
    density: Tensor
    """Share of positions at which a latent is active (latents,)."""

    def strongest(self, latent: int, count: int) -> list[TopPicture]:
        """Pictures on which a latent is strongest, in falling order."""
        means = self.heat[:, :, latent].float().mean(1)
        best = means.topk(min(count, len(means)))
        return [
            TopPicture(int(i), float(v), square_map(self.heat[i, :, latent].float()))
            for v, i in zip(best.values, best.indices, strict=True)
            if v > 0
        ]

    def concepts_of(self, latent: int, count: int = 5) -> list[tuple[str, float]]:
        """The concepts on whose pictures a latent is strongest on average, with that average over the overall one."""
        means = self.heat[:, :, latent].float().mean(1)
        names = dict.fromkeys(name for label in self.labels for name in label.shows)
        overall = float(means.mean()) + 1e-12
        member = {name: torch.tensor([name in label.shows for label in self.labels]) for name in names}
        ratios = [(name, float(means[mask].mean()) / overall) for name, mask in member.items()]
        return sorted(ratios, key=lambda item: -item[1])[:count]

    def regions_of(self, picture: int, across: int = 4, count: int = 3) -> list[list[list[tuple[int, float]]]]:
        """The strongest latents of each region of a picture: rows of columns of (latent, mean activation)."""
        heat = self.heat[picture].float()
        side = round(len(heat) ** 0.5)
        grid = heat.view(side, side, -1)
        edges = [side * i // across for i in range(across + 1)]
        rows = []
        for top, bottom in pairwise(edges):
            row = []
            for left, right in pairwise(edges):
                best = grid[top:bottom, left:right].mean((0, 1)).topk(count)
                row.append([(int(i), float(v)) for v, i in zip(best.values, best.indices, strict=True)])
            rows.append(row)
        return rows


def square_map(tokens: Tensor) -> Tensor:
    """Positions (tokens,) as a map (height width) of a square picture."""
    side = round(len(tokens) ** 0.5)
    return tokens.view(side, side)


@torch.no_grad()
def feature_dashboard(
    model: Model,
    site: str,
    sae: SparseAutoencoder,
    labels: Sequence[Sample],
    config: HarvestConfig,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> FeatureDashboard:
    """Draw labelled pictures and gather the activations of every latent on them.

    Args:
        model: draws them.
        site: name of the module.
        sae: its autoencoder.
        labels: what is drawn.
        config: steps, guidance, batch; its sites must be this one.
        report: called with the number of pictures drawn so far.
    """
    sae = sae.at_inference()
    pictures: list[Any] = []
    heats: list[Tensor] = []
    timesteps: list[float] = []
    by_timestep: list[Tensor] = []
    active = torch.zeros(sae.config.latents)
    positions = 0
    for start in range(0, len(labels), config.batch):
        batch = labels[start : start + config.batch]
        total: Tensor | None = None
        prompts, seeds = [p.prompt for p in batch], [p.seed for p in batch]
        steps = capture(model, prompts, seeds, config, saes={site: sae}, pictures=pictures)
        for number, step in enumerate(steps):
            states = step.states[site]
            dense = sae.encode(states.flatten(0, 1)).dense(sae.config.latents).float().cpu()
            active += (dense > 0).float().sum(0)
            positions += len(dense)
            if start == 0:
                timesteps.append(step.timestep)
                by_timestep.append(torch.zeros(sae.config.latents))
            by_timestep[number] += dense.view(len(batch), -1, sae.config.latents).mean(1).sum(0)
            total = dense if total is None else total + dense
        assert total is not None
        heats.append((total / len(timesteps)).view(len(batch), -1, sae.config.latents).half())
        report(start + len(batch))
    return FeatureDashboard(
        site=site,
        pictures=tuple(pictures),
        labels=tuple(labels),
        timesteps=torch.tensor(timesteps),
        heat=torch.cat(heats),
        by_timestep=torch.stack(by_timestep) / len(labels),
        density=active / positions,
    )
