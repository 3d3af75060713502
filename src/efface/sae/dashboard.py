"""What SAE latents respond to, gathered in one pass over labelled pictures for the pages of `efface sae inspect`.

Memory does not grow with the pictures: of every latent the strongest ones' maps are kept, of every concept the sums, of every
picture the strongest latents of its regions; the pictures themselves lie on disk until they are shown.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from efface.concepts.sample import Sample
from efface.io.images import save_picture
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.harvest import HarvestConfig, StepActivations, capture, in_pieces

TOP = 12
"""Pictures whose maps are kept for every latent."""
FINEST = 16
"""Most rows and columns of a map that is kept; finer ones are averaged."""
REGIONS = 4
"""Rows and columns of the regions of a picture."""
NAMED = 3
"""Latents that are named for a region."""
PIECE = 1 << 28
"""Bytes of maps that are gathered at a time."""


class TopPicture(NamedTuple):
    """A picture on which a latent is strong."""

    picture: int
    """Index of the picture."""
    strength: float
    """Mean activation over positions and steps."""
    heat: Tensor
    """Activation at each position, mean over steps (height width)."""


class StoredPictures(Sequence[Any]):
    """Pictures in a temporary folder, opened when they are asked for."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._count = 0
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def append(self, picture: Any) -> None:
        """Add a picture (PIL)."""
        save_picture(picture, self._path(self._count))
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        with Image.open(self._path(range(self._count)[index])) as picture:
            return picture.copy()

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.png"


@dataclass(frozen=True)
class FeatureDashboard:
    """Activations of all latents of one site over a set of pictures."""

    site: str
    pictures: Sequence[Any]
    """The finished pictures (PIL)."""
    labels: tuple[Sample, ...]
    timesteps: Tensor
    """Timesteps at which activations were read (timesteps,), falling."""
    names: tuple[str, ...]
    """What the pictures show."""
    counts: Tensor
    """Pictures that show each name (names,)."""
    sums: Tensor
    """Mean activation over positions and steps, summed over the pictures that show each name (names latents)."""
    total: Tensor
    """The same, summed over all pictures (latents,)."""
    strength: Tensor
    """Mean activation over positions and steps on a latent's strongest pictures, falling (latents top)."""
    strongest_on: Tensor
    """Which pictures those are (latents top)."""
    maps: Tensor
    """Mean activation over steps on them (latents top height width), in half precision."""
    regions: list[list[list[list[tuple[int, float]]]]]
    """For each picture the rows of columns of its regions' strongest latents, with their mean activation."""
    by_timestep: Tensor
    """Mean activation over positions and pictures (timesteps latents)."""
    density: Tensor
    """Share of positions at which a latent is active (latents,)."""

    def strongest(self, latent: int, count: int) -> list[TopPicture]:
        """Pictures on which a latent is strongest, in falling order; at most `TOP`."""
        kept = zip(self.strongest_on[latent], self.strength[latent], self.maps[latent], strict=True)
        found = [TopPicture(int(i), float(v), heat.float()) for i, v, heat in kept if v > 0]
        return found[:count]

    def concepts_of(self, latent: int, count: int = 5) -> list[tuple[str, float]]:
        """The concepts on whose pictures a latent is strongest on average, with that average over the overall one."""
        overall = float(self.total[latent]) / len(self.labels) + 1e-12
        means = (self.sums[:, latent] / self.counts).tolist()
        ratios = [(name, mean / overall) for name, mean in zip(self.names, means, strict=True)]
        return sorted(ratios, key=lambda item: -item[1])[:count]

    def scores(self, concept: str) -> Tensor:
        """The share of all activity that each latent has on a concept's pictures, less its share on the others (latents,)."""
        at = self.names.index(concept)
        others = len(self.labels) - self.counts[at]
        means = (self.sums[at] / self.counts[at], (self.total - self.sums[at]) / others.clamp(min=1))
        own, beside = (mean / (mean.sum() + 1e-8) for mean in means)
        return own - beside

    def regions_of(self, picture: int) -> list[list[list[tuple[int, float]]]]:
        """The strongest latents of each region of a picture: rows of columns of (latent, mean activation)."""
        return self.regions[picture]


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
    gathered = _Gathered(labels, sae.at_inference(), model.family.latent_shape(config.side)[1:])

    def piece(numbers: range) -> None:
        batch = [labels[i] for i in numbers]
        pictures: list[Any] = []
        prompts, seeds = [p.prompt for p in batch], [p.seed for p in batch]
        steps = capture(model, prompts, seeds, config, saes={site: sae}, pictures=pictures)
        gathered.add(numbers, [gathered.read(step, site, number) for number, step in enumerate(steps)], pictures)
        report(numbers.stop)

    most = max(1, PIECE // (4 * FINEST**2 * sae.config.latents))
    in_pieces(model, len(labels), config, piece, most=most)
    return gathered.dashboard(site)


class _Gathered:
    """What is kept of the pictures drawn so far."""

    def __init__(self, labels: Sequence[Sample], sae: SparseAutoencoder, shape: Sequence[int]):
        self.labels = tuple(labels)
        self.sae = sae
        self.shape = shape
        self.latents = latents = sae.config.latents
        self.names = tuple(dict.fromkeys(name for label in labels for name in label.shows))
        self.sums = torch.zeros(len(self.names), latents)
        self.total = torch.zeros(latents)
        self.strength = torch.full((latents, 0), 0.0)
        self.strongest_on = torch.zeros(latents, 0, dtype=torch.long)
        self.maps = torch.zeros(latents, 0, 1, 1, dtype=torch.float16)
        self.regions: list[list[list[list[tuple[int, float]]]]] = []
        self.pictures = StoredPictures()
        self.timesteps: list[float] = []
        self.by_timestep: list[Tensor] = []
        self.active = torch.zeros(latents)
        self.positions = 0
        self._sum: Tensor | None = None

    def read(self, step: StepActivations, site: str, number: int) -> tuple[float, Tensor, Tensor, int]:
        """Timestep, mean activation summed over pictures, active positions, and positions of one step of a piece, whose maps
        are added to those of the steps before."""
        states = step.states[site]
        means = torch.zeros(self.latents)
        active = torch.zeros(self.latents)
        maps = []
        for one in states:  # a picture at a time, since every latent of every position is written out
            dense = self.sae.encode(one.float()).dense(self.latents).float().cpu()
            active += (dense > 0).float().sum(0)
            means += dense.mean(0)
            maps.append(shrunk(dense, self.shape))
        self._sum = torch.stack(maps) if number == 0 or self._sum is None else self._sum.add_(torch.stack(maps))
        return step.timestep, means, active, states.shape[0] * states.shape[1]

    def add(self, numbers: range, steps: list[tuple[float, Tensor, Tensor, int]], pictures: Sequence[Any]) -> None:
        """Keep what belongs to a piece of pictures, after all of its steps."""
        assert self._sum is not None
        maps, self._sum = self._sum / len(steps), None
        if not self.timesteps:
            self.timesteps = [timestep for timestep, *_ in steps]
            self.by_timestep = [torch.zeros(self.latents) for _ in steps]
        for kept, (_, means, active, positions) in zip(self.by_timestep, steps, strict=True):
            kept += means
            self.active += active
            self.positions += positions
        strength = maps.mean((2, 3))  # (pictures latents)
        member = torch.tensor([[float(name in self.labels[i].shows) for i in numbers] for name in self.names])
        self.sums += member.view(len(self.names), len(numbers)) @ strength
        self.total += strength.sum(0)
        self._keep_strongest(numbers, strength, maps)
        for one, picture in zip(maps, pictures, strict=True):
            self.regions.append(regions(one))
            self.pictures.append(picture)

    def _keep_strongest(self, numbers: range, strength: Tensor, maps: Tensor) -> None:
        """Merge the pictures of a piece into the strongest of every latent."""
        known = self.strength.shape[1]
        joined = torch.cat([self.strength, strength.T], 1)
        self.strength, chosen = joined.topk(min(TOP, joined.shape[1]), dim=1)
        on = torch.cat([self.strongest_on, torch.tensor(list(numbers)).expand(self.latents, -1)], 1)
        self.strongest_on = on.gather(1, chosen)
        merged = torch.empty(*chosen.shape, *maps.shape[2:], dtype=torch.float16)
        for some in torch.arange(self.latents).split(2048):
            new = maps[:, some].transpose(0, 1).half()
            both = torch.cat([self.maps[some], new], 1) if known else new
            merged[some] = both[torch.arange(len(some))[:, None], chosen[some]]
        self.maps = merged

    def dashboard(self, site: str) -> FeatureDashboard:
        """All of it."""
        return FeatureDashboard(
            site=site,
            pictures=self.pictures,
            labels=self.labels,
            timesteps=torch.tensor(self.timesteps),
            names=self.names,
            counts=torch.tensor([float(sum(name in label.shows for label in self.labels)) for name in self.names]),
            sums=self.sums,
            total=self.total,
            strength=self.strength,
            strongest_on=self.strongest_on,
            maps=self.maps,
            regions=self.regions,
            by_timestep=torch.stack(self.by_timestep) / len(self.labels),
            density=self.active / self.positions,
        )


def shrunk(dense: Tensor, shape: Sequence[int]) -> Tensor:
    """Activations (tokens latents) as maps (latents height width) of a picture's form, at most `FINEST` a side.

    Args:
        dense: of one picture.
        shape: height and width of the picture's latents.
    """
    rows, columns = grid_of(len(dense), shape)
    maps = dense.T.reshape(-1, rows, columns)
    size = (min(rows, FINEST), min(columns, FINEST))
    return maps if size == (rows, columns) else F.adaptive_avg_pool2d(maps, size)


def grid_of(tokens: int, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a map of so many positions, of a picture whose latents have this height and width."""
    rows = max(1, round((tokens * shape[0] / shape[1]) ** 0.5))
    return rows, tokens // rows


def regions(maps: Tensor) -> list[list[list[tuple[int, float]]]]:
    """The strongest latents of each region of a picture (latents height width)."""
    height, width = maps.shape[1:]
    edges = [[size * i // min(REGIONS, size) for i in range(min(REGIONS, size) + 1)] for size in (height, width)]
    rows = []
    for top, bottom in pairwise(edges[0]):
        row = []
        for left, right in pairwise(edges[1]):
            best = maps[:, top:bottom, left:right].mean((1, 2)).topk(min(NAMED, len(maps)))
            row.append([(int(i), float(v)) for v, i in zip(best.values, best.indices, strict=True)])
        rows.append(row)
    return rows
