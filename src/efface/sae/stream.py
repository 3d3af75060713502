"""Activations in memory that is taken once: of a shard's pictures, or in rounds for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from efface.sae.autoencoder import Reads
from efface.sae.harvest import HarvestConfig, capture, in_pieces, require_denoiser, shapes_of, sites_of, steps_read
from efface.sae.supervision import Groups, labels_of

T = TypeVar("T")


class Activations:
    """Activations of sites for a number of pictures in half precision, in memory that is taken once (steps halves pictures
    tokens width).

    Args:
        model: draws the pictures.
        config: how they are drawn and read.
        images: how many pictures.
        shapes: site name -> tokens and width of one picture.
    """

    def __init__(self, model: Model, config: HarvestConfig, images: int, shapes: dict[str, tuple[int, int]]):
        self.model = model
        self.config = config
        self.images = images
        own = next(model.networks()[0].module.parameters()).dtype
        dtype = torch.bfloat16 if own == torch.bfloat16 else torch.float16
        steps = steps_read(model, config)
        halves = 1 + (config.half == "both")
        self.tensors = {name: torch.empty(steps, halves, images, *shape, dtype=dtype) for name, shape in shapes.items()}

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[float]:
        """Draw the pictures, one for each prompt; returns the timesteps at which activations were read.

        Raises:
            EffaceError: an activation is not finite, or too large for half precision.
        """

        def piece(numbers: range) -> list[float]:
            chosen = slice(numbers.start, numbers.stop)
            timesteps = []
            for i, step in enumerate(capture(self.model, prompts[chosen], seeds[chosen], self.config)):
                timesteps.append(step.timestep)
                for name, states in step.states.items():
                    place = self.tensors[name][i, :, chosen]
                    place.copy_(states.unflatten(0, place.shape[:2]))
                    if not torch.isfinite(place).all():
                        raise EffaceError(f"{name} gave values that are too large for {place.dtype}: load in bfloat16.")
            return timesteps

        return in_pieces(self.model, len(prompts), self.config, piece)[0]


class ActivationStream:
    """Activations in rounds drawn on the fly, for training without a disk: round i always holds the same vectors.

    Args:
        model: draws the pictures.
        prompts: prompts, cycled through in shuffled order; where there are labels, every second picture is of a labelled prompt, so
            that what no label knows is still reconstructed.
        config: how pictures are drawn and read.
        images: pictures per round.
        rank: number of this process; each draws pictures of its own.
        world: processes that share the work.
        shows: what the picture of each prompt shows, for training with labels.
        kinds: kind of each concept, by its name.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[str],
        config: HarvestConfig,
        *,
        images: int,
        rank: int = 0,
        world: int = 1,
        shows: Mapping[str, tuple[str, ...]] | None = None,
        kinds: Mapping[str, str] | None = None,
    ):
        if not prompts:
            raise UsageError("no prompts were given: name a file with one prompt a line, or `canvas`.")
        if images < 1:
            raise UsageError(f"images is {images}; expected at least 1.")
        self.model = model
        self.prompts = list(prompts)
        self.config = config
        self.images = images
        self.rank = rank
        self.world = world
        self.shows = dict(shows or {})
        self.kinds = dict(kinds or {})
        self._drawn: list[str] = []
        sites = sites_of(model, config.sites)
        require_denoiser(sites)
        self.names = [site.name for site in sites]
        self.reads: Reads = "difference" if config.difference else "output"

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Site name -> tokens and width of one picture."""
        return shapes_of(self.model, self.config)

    @cached_property
    def _activations(self) -> Activations:
        return Activations(self.model, self.config, self.images, self.shapes)

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width) in half precision on the CPU; they hold until the next round is asked for."""
        first = (index * self.world + self.rank) * self.images
        numbers = range(first, first + self.images)
        prompts = self._drawn = [self._prompt(number) for number in numbers]
        self._activations.draw(prompts, [self.config.seed + number for number in numbers])
        return {name: tensor.flatten(0, 3) for name, tensor in self._activations.tensors.items()}

    def _prompt(self, number: int) -> str:
        """The prompt of a picture of all rounds."""
        if not self.shows:
            return shuffled(self.prompts, number, self.config.seed)
        turn, rest = divmod(number, 2)
        return shuffled(self.prompts if rest else list(self.shows), turn, self.config.seed)

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts that labels know."""
        return list(self.kinds)

    def groups(self) -> dict[str, Groups]:
        """Site name -> those pictures of the last round that have labels, by the means of their vectors."""
        known = [number for number, prompt in enumerate(self._drawn) if prompt in self.shows]
        labels = labels_of([self._drawn[number] for number in known], self.shows, self.concepts)
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(self.kinds.values()))}
        kinds = torch.tensor([numbers[kind] for kind in self.kinds.values()])
        tensors = self._activations.tensors.items()
        return {name: Groups(tensor[:, -1][:, known].float().mean(2), labels, kinds) for name, tensor in tensors}


def shuffled(members: Sequence[T], number: int, seed: int) -> T:
    """Member `number` of an endless row in which every pass over the members is shuffled anew."""
    epoch, position = divmod(number, len(members))
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed + epoch))
    return members[int(order[position])]
