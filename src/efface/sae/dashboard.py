"""What the latents of an autoencoder respond to, gathered in one pass over labelled pictures for the pages of `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.concepts.sample import Labelled
from efface.models.model import Model
from efface.sae.autoencoder import Coder
from efface.sae.harvest import HarvestConfig, captured


class Seen(NamedTuple):
    """A latent at one picture."""

    picture: int
    """Index of the picture."""
    strength: float
    """Mean activation over positions and steps."""
    heat: Tensor
    """Activation at each position, mean over steps (height width)."""


@dataclass(frozen=True)
class Atlas:
    """Activations of all latents of one site over a set of pictures."""

    site: str
    pictures: tuple[Any, ...]
    """The finished pictures (PIL)."""
    labels: tuple[Labelled, ...]
    levels: Tensor
    """Timesteps (levels,), falling."""
    heat: Tensor
    """Mean over steps (pictures tokens latents), in half precision."""
    by_level: Tensor
    """Mean over positions and pictures (levels latents)."""
    density: Tensor
    """Share of positions at which a latent is active (latents,)."""

    def strongest(self, latent: int, count: int) -> list[Seen]:
        """The pictures on which a latent is strongest, strongest first."""
        means = self.heat[:, :, latent].float().mean(1)
        best = means.topk(min(count, len(means)))
        return [
            Seen(int(i), float(v), squared(self.heat[i, :, latent].float()))
            for v, i in zip(best.values, best.indices, strict=True)
            if v > 0
        ]

    def concepts_of(self, latent: int, count: int = 5) -> list[tuple[str, float]]:
        """The concepts on whose pictures a latent is strongest on average, with that average over the overall one."""
        means = self.heat[:, :, latent].float().mean(1)
        names = dict.fromkeys(name for label in self.labels for name in label.concepts)
        overall = float(means.mean()) + 1e-12
        member = {name: torch.tensor([name in label.concepts for label in self.labels]) for name in names}
        found = [(name, float(means[mask].mean()) / overall) for name, mask in member.items()]
        return sorted(found, key=lambda item: -item[1])[:count]

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


def squared(tokens: Tensor) -> Tensor:
    """Positions (tokens,) as a map (height width) of a square picture."""
    side = round(len(tokens) ** 0.5)
    return tokens.view(side, side)


@torch.no_grad()
def atlas(
    model: Model,
    site: str,
    coder: Coder,
    labels: Sequence[Labelled],
    config: HarvestConfig,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Atlas:
    """Draw the pictures and gather what every latent does on them.

    Args:
        model: draws them.
        site: name of the module.
        coder: its autoencoder.
        labels: what is drawn.
        config: steps, guidance, batch; its sites must be this one.
        report: called with the number of pictures drawn so far.
    """
    coder = coder.at_inference()
    pictures: list[Any] = []
    heats, levels, by_level = [], [], []
    active, positions = torch.zeros(coder.config.latents), 0
    for start in range(0, len(labels), config.batch):
        batch = labels[start : start + config.batch]
        total: Tensor | None = None
        steps = captured(model, [p.prompt for p in batch], [p.seed for p in batch], config, pictures=pictures)
        for number, step in enumerate(steps):
            states = step.states[site]
            dense = coder.encode(states.flatten(0, 1)).dense(coder.config.latents).float().cpu()
            active += (dense > 0).float().sum(0)
            positions += len(dense)
            if start == 0:
                levels.append(step.level)
                by_level.append(torch.zeros(coder.config.latents))
            by_level[number] += dense.view(len(batch), -1, coder.config.latents).mean(1).sum(0)
            total = dense if total is None else total + dense
        assert total is not None
        heats.append((total / len(levels)).view(len(batch), -1, coder.config.latents).half())
        report(start + len(batch))
    return Atlas(
        site, tuple(pictures), tuple(labels), torch.tensor(levels), torch.cat(heats),
        torch.stack(by_level) / len(labels), active / positions,
    )  # fmt: skip
