"""Statistics of models that draw block by block: by block and level, or shared by all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from efface.errors import EffaceError
from efface.sae.statistics import Statistics, select

ByBlock = Literal["agreeing", "keyed", "shared"]
"""`keyed`: every block by its own statistics; `shared`: all blocks by their mean; `agreeing`: by their mean at those levels at which
the scores choose the same latents in every block."""


def over_blocks(
    stats: Statistics, blocks: int, concept: str, *, count: int, how: ByBlock, only: Sequence[int] | None = None
) -> Statistics:
    """Statistics by which one concept's latents are chosen and gated.

    Args:
        stats: timesteps of every block in turn, as many of each.
        blocks: of a picture; 1 leaves all as it is.
        concept: name of the concept.
        count: latents chosen at each timestep.
        how: what blocks share.
        only: latents that are chosen at all timesteps instead.

    Raises:
        EffaceError: the timesteps are not as many of every block.
    """
    if blocks == 1 or how == "keyed":
        return stats
    pooled = pooled_over_blocks(stats, blocks)
    if how == "shared":
        return pooled
    chosen = select(stats.scores(concept), count, only).unflatten(0, (blocks, -1))
    agree = (chosen == chosen[:1]).all(2).all(0).repeat(blocks)
    return replace(
        stats,
        means=torch.where(agree[:, None], pooled.means, stats.means),
        cutoff=torch.where(agree, pooled.cutoff, stats.cutoff),
    )


def pooled_over_blocks(stats: Statistics, blocks: int) -> Statistics:
    """The same statistics with the mean over blocks of every level in the place of each block's own.

    Raises:
        EffaceError: the timesteps are not as many of every block.
    """
    if len(stats.timesteps) % blocks:
        raise EffaceError(
            f"the statistics have {len(stats.timesteps)} timesteps for {blocks} blocks; expected as many of every block: make them "
            "again (`efface sae features`)."
        )
    means = stats.means.unflatten(1, (blocks, -1)).mean(1, keepdim=True)
    cutoff = stats.cutoff.unflatten(0, (blocks, -1)).mean(0)
    return replace(
        stats, means=means.expand(-1, blocks, -1, -1).flatten(1, 2).contiguous(), cutoff=cutoff.repeat(blocks)
    )
