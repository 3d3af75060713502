"""Harvest activations while a model draws: any number of sites in one pass, step by step or in rounds for training."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.autoencoder import Reads, SparseAutoencoder

Half = Literal["conditional", "unconditional", "both"]


@dataclass(frozen=True)
class HarvestConfig:
    """How pictures are drawn and which activations are read."""

    sites: tuple[str, ...]
    """fnmatch patterns over the denoiser's modules, which name the sites."""
    steps: int = 50
    """Denoising steps of each picture (paper: 50)."""
    guidance: float = 9.0
    """Classifier-free guidance scale (paper: 9)."""
    every: int = 1
    """Read every n-th step (paper: each)."""
    half: Half = "conditional"
    """Which half of a guided batch is read (paper: conditional)."""
    difference: bool = False
    """Read output − input of the site instead of its output (SDXL-unbox does; SAeUron reads the output)."""
    batch: int = 32
    """Pictures drawn at a time."""
    seed: int = 0
    """Picture i is drawn from seed + i."""

    def __post_init__(self) -> None:
        for name in ("steps", "every", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if self.half != "conditional" and self.guidance <= 1:
            raise UsageError(
                f"half is {self.half!r} but guidance is {self.guidance}: without guidance there is one half."
            )


class StepActivations(NamedTuple):
    """Activations of sites at one denoising step of a batch of pictures."""

    timestep: float
    """The denoiser's timestep (0 to 999)."""
    states: dict[str, Tensor]
    """Site name -> activations (batch tokens width) of the requested halves, the unconditional one first."""


class HarvestCost(NamedTuple):
    """Expected size and duration of a harvest."""

    images: int
    """Pictures to draw."""
    vectors: int
    """Vectors per site."""
    bytes: int
    """Bytes on disk in half precision, all sites together."""
    seconds: float
    """Time to draw the pictures."""


@contextmanager
def record_sites(sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Context in which every forward of the denoiser writes the sites' activations (batch tokens width) to the dictionary."""
    activations: dict[str, Tensor] = {}

    def recorder(site: Site) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            activations[site.name] = site.states(args, kwargs, output).detach()

        return hook

    handles = [site.module.register_forward_hook(recorder(site), with_kwargs=True) for site in sites]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


def sites_of(
    model: Model,
    patterns: Sequence[str],
    saes: Mapping[str, SparseAutoencoder] | None = None,
    *,
    difference: bool = False,
) -> list[Site]:
    """Sites that match the patterns, each once; raises UsageError for a pattern without a match.

    Args:
        model: whose denoiser has the sites.
        patterns: for fnmatch.
        saes: site name -> the autoencoder that reads it, which decides between output and output − input.
        difference: whether output − input of all of them is read.
    """
    sites = {site.name: site for pattern in patterns for site in model.sites(pattern)}
    differing = {name for name, sae in (saes or {}).items() if sae.config.reads == "difference"}
    return [site._replace(difference=difference or name in differing) for name, site in sites.items()]


def capture(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: HarvestConfig,
    *,
    saes: Mapping[str, SparseAutoencoder] | None = None,
    pictures: list[Any] | None = None,
) -> Iterator[StepActivations]:
    """Draw one batch of pictures and yield the sites' activations, step by step.

    Args:
        prompts: prompt of each picture.
        seeds: seed of each picture.
        saes: site name -> the autoencoder that will read it.
        pictures: list to which the finished pictures are appended; None skips decoding.

    Raises:
        EffaceError: a site gave values that are not finite.
    """
    sites = sites_of(model, config.sites, saes, difference=config.difference)
    with record_sites(sites) as activations:
        guided = model.guides(config.guidance)
        steps = model.denoise(model.encode(prompts), seeds=seeds, steps=config.steps, guidance=config.guidance)
        for number, (timestep, latents) in enumerate(steps):
            if number % config.every == 0:
                states = {site.name: _half(activations[site.name], config, site, guided) for site in sites}
                yield StepActivations(timestep, states)
            if number == config.steps - 1 and pictures is not None:
                pictures += model.decode(latents)


def _half(states: Tensor, config: HarvestConfig, site: Site, guided: bool) -> Tensor:
    if not torch.isfinite(states).all():
        raise EffaceError(f"{site.name} gave values that are not finite: check the model's weights and dtype.")
    if not guided or config.half == "both":
        return states
    unconditional, conditional = states.chunk(2)
    return conditional if config.half == "conditional" else unconditional


class ActivationStream:
    """Activations in rounds drawn on the fly, for training without a disk: round i always holds the same vectors.

    Args:
        model: draws the pictures.
        prompts: prompts, cycled through in shuffled order.
        config: how pictures are drawn and read.
        images: pictures per round.
        rank: number of this process; each draws pictures of its own.
        world: processes that share the work.
    """

    def __init__(
        self, model: Model, prompts: Sequence[str], config: HarvestConfig, *, images: int, rank: int = 0, world: int = 1
    ):
        if not prompts:
            raise UsageError("no prompts were given: name a file with one prompt a line, or `canvas`.")
        self.model = model
        self.prompts = list(prompts)
        self.config = config
        self.images = images
        self.rank = rank
        self.world = world
        self.names = [site.name for site in sites_of(model, config.sites)]
        self.reads: Reads = "difference" if config.difference else "output"

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width) in float32 on the CPU."""
        first = (index * self.world + self.rank) * self.images
        parts: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for start in range(first, first + self.images, self.config.batch):
            numbers = range(start, min(start + self.config.batch, first + self.images))
            prompts = [self._prompt(number) for number in numbers]
            for step in capture(self.model, prompts, [self.config.seed + n for n in numbers], self.config):
                for name, states in step.states.items():
                    parts[name].append(states.flatten(0, 1).float().cpu())
        return {name: torch.cat(batches) for name, batches in parts.items()}

    def _prompt(self, number: int) -> str:
        """Prompt of picture `number`; every pass over the prompts is shuffled anew."""
        epoch, position = divmod(number, len(self.prompts))
        order = torch.randperm(len(self.prompts), generator=torch.Generator().manual_seed(self.config.seed + epoch))
        return self.prompts[int(order[position])]


def harvest_cost(model: Model, config: HarvestConfig, images: int) -> HarvestCost:
    """Size and duration of a harvest of `images` pictures, extrapolated from one batch at one step."""
    started = time.perf_counter()
    batch = min(config.batch, images)
    first = next(capture(model, ["a"] * batch, range(batch), config))
    seconds = (time.perf_counter() - started) * config.steps * images / batch
    steps = len(range(0, config.steps, config.every))
    vectors = images * steps * max(s.shape[0] * s.shape[1] for s in first.states.values()) // batch
    per_image = sum(s.numel() for s in first.states.values()) * steps * 2 // batch
    return HarvestCost(images=images, vectors=vectors, bytes=per_image * images, seconds=seconds)


def require_space(folder: Path, needed: int) -> None:
    """Raise EffaceError if the disk has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EffaceError(
            f"the shards need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: take fewer pictures, "
            "a larger --every, or train from the stream, which needs no disk."
        )
