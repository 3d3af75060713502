"""Gate, gain and shift of every latent at every level; several concepts merged into one edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from efface.erasures.latent_edit import HUGE, Edit
from efface.sae.autoencoder import Coder
from efface.sae.statistics import Statistics, percentile_count, select

Gain = Literal["published", "normalised", "clamp"]
"""`published`: z becomes γ·μ·z with μ the latent's mean over the concept's pictures; `normalised`: γ·z; `clamp`: γ·μ."""


class Tables(NamedTuple):
    """What happens to every latent of the autoencoder at every level, for one concept (levels latents)."""

    gate: Tensor
    """Activation above which it is edited; infinite where it is not chosen."""
    gain: Tensor
    shift: Tensor


def tables_of(
    measured: Statistics, coder: Coder, concept: str, *, count: int, gamma: float, gain: Gain, fast: bool
) -> Tables:
    """The published edit of one concept: gate μ(i,t,D), gain γ μ(i,t,D_c), or what `gain` says instead.

    Args:
        measured: statistics that know the concept.
        coder: the site's autoencoder.
        concept: its name.
        count: latents chosen at each level.
        gamma: their factor.
        gain: how the factor is used.
        fast: whether the gate also stands for membership in the top k.
    """
    chosen = select(measured.scores(concept), count)
    mean = measured.of(concept)
    gains = {"published": gamma * mean, "normalised": torch.full_like(mean, gamma), "clamp": torch.zeros_like(mean)}
    shift = gamma * mean if gain == "clamp" else torch.zeros_like(mean)
    gate = torch.where(chosen, measured.everything(concept), float("inf"))
    if fast:
        gate = torch.maximum(gate, measured.cutoff[:, None])
    return Tables(gate, gains[gain], shift)


def count_of(coder: Coder, count: int, percentile: float | None) -> int:
    """Latents chosen at each level: `count`, or those above a percentile of the scores."""
    return count if percentile is None else percentile_count(coder.config.latents, percentile)


def merged(concepts: Sequence[Tables], coder: Coder, measured: Statistics) -> Edit:
    """The union of the concepts' latents; where several choose one at a level, the smallest gain wins."""
    gate, gain, shift = (torch.stack(tables) for tables in zip(*concepts, strict=True))
    strongest = torch.where(gate.isfinite(), gain, float("inf")).argmin(0, keepdim=True)
    gate, gain, shift = (table.gather(0, strongest)[0] for table in (gate, gain, shift))
    latents = gate.isfinite().any(0).nonzero().squeeze(1)

    def copied(part: Tensor) -> Tensor:
        return part.detach().clone().contiguous()

    return Edit(
        encoder=copied(coder.encoder.weight[latents]),
        bias=copied(coder.encoder.bias[latents]),
        centre=copied(coder.b_dec),
        decoder=copied(coder.W_dec[latents]),
        latents=latents,
        levels=copied(measured.levels),
        gate=copied(gate[:, latents]),
        gain=copied(gain[:, latents]),
        shift=copied(shift[:, latents]),
    )


def chosen_already(edit: Edit) -> int:
    """The most latents that an edit has at a level."""
    return int((edit.gate < HUGE).sum(1).max())


def with_latents(edit: Edit, coder: Coder, measured: Statistics, new: Tables) -> Edit:
    """An edit with the latents of further tables, by the levels of new statistics, beside those that it has."""
    gate = torch.where(edit.gate < HUGE, edit.gate, float("inf")).cpu()  # as files write it
    nearest = (measured.levels[None] - edit.levels[:, None]).abs().argmin(1)
    shape = (len(edit.levels), coder.config.latents)
    old = Tables(torch.full(shape, float("inf")), torch.ones(shape), torch.zeros(shape))
    for table, part in zip(old, (gate, edit.gain, edit.shift), strict=True):
        table[:, edit.latents.cpu()] = part.cpu()
    return merged([old, Tables(*(table[nearest] for table in new))], coder, replace(measured, levels=edit.levels))
