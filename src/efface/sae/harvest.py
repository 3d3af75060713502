"""Harvest activations while a model draws: any number of sites in one pass, step by step."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.families.base import Side
from efface.families.sites import Site
from efface.models.batches import in_batches
from efface.models.mapped import released
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder

T = TypeVar("T")
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
    """Pictures of a shard, and the most that are drawn at a time."""
    seed: int = 0
    """Picture i is drawn from seed + i."""
    side: Side = None
    """Pixels of each side of a picture, or width and height; None is the model's own size."""

    def __post_init__(self) -> None:
        for name in ("steps", "every", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if self.half != "conditional" and self.guidance <= 1:
            raise UsageError(
                f"half is {self.half!r} but guidance is {self.guidance}: without guidance there is one half."
            )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; the model's own size is left out, as in harvests from before it could be chosen."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if (k, v) != ("side", None)}))


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


def require_denoiser(sites: Sequence[Site]) -> None:
    """Raise UsageError where a site is in a text encoder, which runs once a prompt and not while pictures are drawn."""
    if reading := [site.name for site in sites if site.reads_text]:
        raise UsageError(
            f"{reading[0]} is in a text encoder, which reads prompts and knows no timestep: pictures say nothing of it; train its "
            "autoencoder with `efface sae train`, look at it with `efface sae inspect`, erase with `efface erase itd`."
        )


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
        UsageError: a site is in a text encoder, which has no timesteps.
        EffaceError: a site gave values that are not finite.
    """
    sites = sites_of(model, config.sites, saes, difference=config.difference)
    require_denoiser(sites)
    with released(model.components().values()), record_sites(sites) as activations:
        guided = model.guides(config.guidance)
        steps = model.denoise(
            model.encode(prompts), seeds=seeds, steps=config.steps, guidance=config.guidance, side=config.side
        )
        for number, (timestep, latents) in enumerate(steps):
            if number % config.every == 0:
                states = {site.name: _half(activations[site.name], config, site, guided) for site in sites}
                yield StepActivations(timestep, states)
            if number == config.steps * model.family.blocks - 1 and pictures is not None:
                pictures += model.decode(latents)


def in_pieces(
    model: Model, count: int, config: HarvestConfig, draw: Callable[[range], T], *, most: int | None = None
) -> list[T]:
    """Results of drawing consecutive pieces of `count` pictures, as many at a time as memory holds and `config` allows.

    Args:
        model: draws them.
        count: of pictures.
        config: how they are drawn.
        draw: draws a piece; it may be called again for the same pictures after memory ran out.
        most: pictures of a piece, where what is kept of them is large too.
    """
    shape = model.family.latent_shape(config.side)
    size = min(config.batch, most or count, model.pictures_at_a_time(count, shape, config.guidance))

    def work(chosen: slice) -> T:
        return draw(range(count)[chosen])

    return in_batches(model.networks()[0].module, "drawing", count, shape, size, work)


def _half(states: Tensor, config: HarvestConfig, site: Site, guided: bool) -> Tensor:
    if not torch.isfinite(states).all():
        raise EffaceError(f"{site.name} gave values that are not finite: check the model's weights and dtype.")
    if not guided or config.half == "both":
        return states
    unconditional, conditional = states.chunk(2)
    return conditional if config.half == "conditional" else unconditional


def shapes_of(model: Model, config: HarvestConfig) -> dict[str, tuple[int, int]]:
    """Site name -> tokens and width of one picture's activations, found in one step of one picture."""
    step = next(capture(model, ["a"], [0], replace(config, half="conditional")))
    return {name: (states.shape[1], states.shape[2]) for name, states in step.states.items()}


def steps_read(model: Model, config: HarvestConfig) -> int:
    """Number of denoising steps of a picture, of all its blocks, at which activations are read."""
    return len(range(0, config.steps * model.family.blocks, config.every))


def bytes_of(model: Model, config: HarvestConfig, images: int, shapes: dict[str, tuple[int, int]]) -> int:
    """Bytes of the activations of `images` pictures in half precision, all sites together."""
    rows = images * steps_read(model, config) * (1 + (config.half == "both"))
    return 2 * rows * sum(tokens * width for tokens, width in shapes.values())


def harvest_cost(model: Model, config: HarvestConfig, images: int) -> HarvestCost:
    """Size and duration of a harvest of `images` pictures, extrapolated from one batch at one step."""
    shape = model.family.latent_shape(config.side)
    batch = min(config.batch, images, model.pictures_at_a_time(images, shape, config.guidance))
    started = time.perf_counter()
    first = next(capture(model, ["a"] * batch, range(batch), config))
    seconds = (time.perf_counter() - started) * config.steps * model.family.blocks * images / batch
    vectors = images * steps_read(model, config) * max(s.shape[0] * s.shape[1] for s in first.states.values()) // batch
    shapes = {name: (states.shape[1], states.shape[2]) for name, states in first.states.items()}
    return HarvestCost(images=images, vectors=vectors, bytes=bytes_of(model, config, images, shapes), seconds=seconds)


def require_space(folder: Path, needed: int) -> None:
    """Raise EffaceError if the disk has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise EffaceError(
            f"the shards need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: take fewer pictures, "
            "a larger --every, or train from the stream, which needs no disk."
        )
