"""Activations of text encoders in rounds, from prompts alone: no picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.autoencoder import Reads
from efface.sae.stream import shuffled
from efface.sae.text_states import PromptStates, TextSites

BATCH = 64
"""Prompts that are encoded at a time."""


class TextStream:
    """Activations at the prompts' own positions; round i always holds the same vectors.

    Where the denoiser reads the padding behind a prompt, as much of it as the prompt is long is read too, chosen at random: all of it
    would be nine vectors in ten. What every prompt begins with is the same in all, and is left out.

    Args:
        model: encodes the prompts.
        prompts: cycled through in shuffled order.
        sites: layers of text encoders.
        count: prompts a round.
        seed: of the order, and of which padding is read.
        rank: number of this process; each encodes prompts of its own.
        world: processes that share the work.
    """

    reads: Reads = "output"

    def __init__(
        self,
        model: Model,
        prompts: Sequence[str],
        sites: Sequence[Site],
        *,
        count: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        if not prompts:
            raise UsageError("no prompts were given: name a file with one prompt a line, or `canvas`.")
        if count < 1:
            raise UsageError(f"{count} prompts a round were asked for; expected at least 1.")
        self.text = TextSites(model, sites)
        self.names = [site.name for site in sites]
        self.prompts = list(prompts)
        self.count = count
        self.seed = seed
        self.rank = rank
        self.world = world

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width) on the CPU, in the encoder's own precision."""
        first = (index * self.world + self.rank) * self.count
        prompts = [shuffled(self.prompts, number, self.seed) for number in range(first, first + self.count)]
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) * 1009 + self.rank)
        rows: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for start in range(0, len(prompts), BATCH):
            for name, read in self.text.read(prompts[start : start + BATCH]).items():
                chosen = self._chosen(read, generator)
                rows[name].append(read.states[chosen.to(read.states.device)].cpu())
        return {name: torch.cat(parts) for name, parts in rows.items()}

    def _chosen(self, read: PromptStates, generator: torch.Generator) -> Tensor:
        """The positions that are read (batch tokens)."""
        own = read.own.cpu()
        if not self.text.model.family.reads_padding:
            return own
        order = torch.rand(own.shape, generator=generator).masked_fill(~read.behind.cpu(), 2.0).argsort(1).argsort(1)
        return own | (read.behind.cpu() & (order < own.sum(1, keepdim=True)))
