"""Gate, gain and shift of every latent at every timestep, and the merge of several concepts into one edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from efface.erasures.latent_edit import HUGE, LatentEdit
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.statistics import Statistics, percentile_count, select

Gain = Literal["published", "normalised", "clamp"]
"""`published`: z becomes γ·μ·z with μ the latent's mean over the concept's pictures; `normalised`: γ·z; `clamp`: γ·μ."""

Shared = Literal["strongest", "last"]
"""Of several concepts that choose one latent: the smallest gain counts, or that of the last concept, with its gate."""


class LatentTables(NamedTuple):
    """Per-timestep gate, gain and shift of every latent, for one concept (each timesteps latents)."""

    gate: Tensor
    """Activation above which a latent is edited; infinite where it is not chosen."""
    gain: Tensor
    """Factor of an edited latent."""
    shift: Tensor
    """Summand of an edited latent."""


def latent_tables(
    stats: Statistics,
    sae: SparseAutoencoder,
    concept: str,
    *,
    count: int,
    gamma: float,
    gain: Gain,
    fast: bool,
    only: Sequence[int] | None = None,
) -> LatentTables:
    """The tables of one concept: gate μ(i, t, D), gain γ μ(i, t, D_c) or the variant that `gain` names.

    Args:
        stats: statistics that know the concept.
        sae: the site's autoencoder.
        concept: name of the concept.
        count: latents chosen at each timestep.
        gamma: factor γ of a chosen latent.
        gain: how the factor is applied.
        fast: whether the gate also replaces membership in the top k.
        only: latents that are known to be the concept's, chosen at all timesteps instead.
    """
    chosen = select(stats.scores(concept), count, only)
    mean = stats.of(concept)
    gains = {"published": gamma * mean, "normalised": torch.full_like(mean, gamma), "clamp": torch.zeros_like(mean)}
    shift = gamma * mean if gain == "clamp" else torch.zeros_like(mean)
    gate = torch.where(chosen, stats.everything(concept), float("inf"))
    if fast:
        gate = torch.maximum(gate, stats.cutoff[:, None])
    return LatentTables(gate, gains[gain], shift)


def latents_per_timestep(sae: SparseAutoencoder, count: int, percentile: float | None) -> int:
    """Number of latents chosen at each timestep: `count`, or those above a percentile of the scores."""
    return count if percentile is None else percentile_count(sae.config.latents, percentile)


def merge_tables(
    concepts: Sequence[LatentTables], sae: SparseAutoencoder, stats: Statistics, *, shared: Shared = "strongest"
) -> LatentEdit:
    """Merge tables into one edit of the union of their latents; `shared` says what counts where several choose one at a timestep."""
    gates = torch.stack([tables.gate for tables in concepts])
    gains = torch.stack([tables.gain for tables in concepts])
    shifts = torch.stack([tables.shift for tables in concepts])
    place = -torch.arange(len(concepts), dtype=gains.dtype).reshape(-1, 1, 1).expand_as(gains)
    winner = torch.where(gates.isfinite(), gains if shared == "strongest" else place, float("inf")).argmin(
        0, keepdim=True
    )
    gate = gates.gather(0, winner)[0]
    gain = gains.gather(0, winner)[0]
    shift = shifts.gather(0, winner)[0]
    latents = gate.isfinite().any(0).nonzero().squeeze(1)

    def copy(part: Tensor) -> Tensor:
        return part.detach().clone().contiguous()

    return LatentEdit(
        encoder=copy(sae.encoder.weight[latents]),
        bias=copy(sae.encoder.bias[latents]),
        centre=copy(sae.b_dec),
        decoder=copy(sae.W_dec[latents]),
        latents=latents,
        timesteps=copy(stats.timesteps),
        gate=copy(gate[:, latents]),
        gain=copy(gain[:, latents]),
        shift=copy(shift[:, latents]),
    )


def max_latents_per_timestep(edit: LatentEdit) -> int:
    """Largest number of latents that an edit has at one timestep."""
    return int((edit.gate < HUGE).sum(1).max())


def add_latents(edit: LatentEdit, sae: SparseAutoencoder, stats: Statistics, new: LatentTables) -> LatentEdit:
    """An edit with the latents of further tables beside its own; `stats` says at which timesteps the tables hold."""
    gate = torch.where(edit.gate < HUGE, edit.gate, float("inf")).cpu()  # files hold the largest float for infinity
    nearest = (stats.timesteps[None] - edit.timesteps[:, None]).abs().argmin(1)
    shape = (len(edit.timesteps), sae.config.latents)
    old = LatentTables(torch.full(shape, float("inf")), torch.ones(shape), torch.zeros(shape))
    latents = edit.latents.cpu()
    old.gate[:, latents] = gate
    old.gain[:, latents] = edit.gain.cpu()
    old.shift[:, latents] = edit.shift.cpu()
    further = LatentTables(new.gate[nearest], new.gain[nearest], new.shift[nearest])
    return merge_tables([old, further], sae, replace(stats, timesteps=edit.timesteps))
