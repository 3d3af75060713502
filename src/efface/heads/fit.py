"""Fit a sparse head on labelled rows (UCBM, TMLR 2025); nothing in it is drawn at random.

First without a gate, which says what each activation weighs; then the offsets are learnt with the gate on; at last the weights are
solved to the optimum behind the gate that was learnt. Two points differ from UCBM's public code: the k that a verdict counts are
chosen by what they weigh (there the largest, which in an autoencoder are often those that say nothing of the kind), and k is never
passed over (there `--relu`, on by default, switches it off). Concepts are not dropped at random, which would spread a weight over
all that say the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.errors import UsageError
from efface.heads.config import HeadConfig
from efface.heads.head import SparseHead, gate
from efface.heads.names import CHANCE, by_chance
from efface.heads.solve import Linear, solve

FIRST_OFFSET = 0.05
"""Offset with which learning begins, in standard deviations."""
LR = 0.05
"""Adam's learning rate for offsets and weights."""
FOLDS = 5
"""One of so many rows that show the same is held out."""


def fit_head(activity: Tensor, labels: Tensor, concepts: Sequence[str], config: HeadConfig) -> SparseHead:
    """A head that tells the concepts of one kind; rows that show none of them are left out.

    Args:
        activity: activations of each row (rows all).
        labels: which concepts a row shows (rows concepts).
        concepts: their names.
        config: options.

    Raises:
        UsageError: there are fewer than two concepts, or one is shown by no row.
    """
    labels = labels.bool()
    require_told_apart(labels, concepts)
    shown = labels.any(1)
    labels = labels[shown]
    activity = activity[shown].double()
    exclusive = bool((labels.sum(1) == 1).all())
    targets = labels.double()
    deviation = activity.std(0, correction=0)
    units = (deviation > 1e-9 * activity.abs().amax(0)).nonzero().squeeze(1)
    standardised = (activity[:, units] - activity[:, units].mean(0)) / deviation[units]
    penalties = {"exclusive": exclusive, "penalty": config.penalty, "mix": config.mix}
    k = None if config.k is None or config.k >= len(units) else config.k
    offset = torch.zeros(len(units), dtype=torch.float64)
    rank = torch.ones_like(offset)
    gated = standardised
    if k is None:
        found = solve(gated, targets, **penalties)
    else:
        found = solve((standardised - FIRST_OFFSET).relu(), targets, **penalties)
        kept = found.weight.any(0)
        units = units[kept]
        standardised = standardised[:, kept]
        rank = found.weight[:, kept].abs().amax(0)
        start = Linear(found.weight[:, kept], found.bias)
        offset, start = _learn_offsets(standardised, targets, start, rank, exclusive, config)
        gated = gate(standardised, offset, rank, k)
        found = solve(gated, targets, **penalties, start=start)
    return SparseHead(
        concepts=tuple(concepts),
        exclusive=exclusive,
        k=k,
        units=units,  # also those without a weight in the end: they take a place among the k
        mean=activity[:, units].mean(0),
        scale=deviation[units],
        offset=offset,
        rank=rank,
        weight=found.weight,
        bias=found.bias,
        means=(targets.T @ gated) / targets.sum(0)[:, None],
    )


def require_told_apart(labels: Tensor, concepts: Sequence[str]) -> None:
    """Raise UsageError where there are fewer than two concepts, or a concept that no row shows (rows concepts)."""
    if len(concepts) < 2:
        raise UsageError(
            f"{(concepts or ['nothing'])[0]!r} is the only concept of its kind: give pictures of others to tell it from."
        )
    if lacking := [name for name, shown in zip(concepts, labels.any(0).tolist(), strict=True) if not shown]:
        raise UsageError(f"there is no picture of {lacking[0]!r}: give prompts that show it.")


def held_out(labels: Tensor) -> Tensor:
    """Every fifth of the rows that show the same (rows,), on which a head is checked; few alike are all fitted."""
    seen: dict[tuple[int, ...], int] = {}
    out = []
    for row in labels.bool().tolist():
        key = tuple(i for i, shown in enumerate(row) if shown)
        seen[key] = seen.get(key, 0) + 1
        out.append(seen[key] % FOLDS == 0)
    return torch.tensor(out, dtype=torch.bool)


class Accuracy(NamedTuple):
    """What a head says of rows that it was not fitted on."""

    right: int
    """Rows of which it says exactly what they show."""
    rows: int
    """All of them."""
    common: int
    """Rows that show what most of them show: what a head could get right that reads nothing."""
    active: float = 0.0
    """Activations that count in a verdict, on average."""

    @property
    def share(self) -> float | None:
        """Of the rows, those that are right; None where none was held out."""
        return self.right / self.rows if self.rows else None

    @property
    def beats_chance(self) -> bool:
        """Whether so many are hardly right by chance (p ≤ .01)."""
        return bool(self.rows) and by_chance(self.right, self.rows, self.common / self.rows) <= CHANCE

    def __str__(self) -> str:
        if not self.rows:
            return "no picture was held out"
        said = f"{self.share:.1%} of {self.rows} held-out pictures right by {self.active:.1f} activations each"
        return said if self.beats_chance else f"{said}, which may be chance"


def measure_accuracy(head: SparseHead, activity: Tensor, labels: Tensor) -> Accuracy:
    """How often a head is right.

    Args:
        head: is asked.
        activity: activations of rows that it was not fitted on (rows all).
        labels: which concepts a row shows (rows concepts); rows that show none do not count.
    """
    labels = labels.bool()
    shown = labels.any(1)
    if not shown.any():
        return Accuracy(0, 0, 0)
    labels = labels[shown]
    activity = activity[shown]
    logits = head.logits(activity)
    said = F.one_hot(logits.argmax(1), len(head.concepts)).bool() if head.exclusive else logits > 0
    right = int((said == labels).all(1).sum())
    return Accuracy(
        right=right,
        rows=len(labels),
        common=int(labels.unique(dim=0, return_counts=True)[1].max()),
        active=float(((head.gated(activity) != 0) & head.weight.any(0)).sum(1).double().mean()),
    )


def _learn_offsets(
    standardised: Tensor, targets: Tensor, start: Linear, rank: Tensor, exclusive: bool, config: HeadConfig
) -> tuple[Tensor, Linear]:
    """The offsets e^o (units,) and the weights with which they were learnt, by Adam over all rows at once."""
    exponent = torch.full_like(rank, math.log(FIRST_OFFSET)).requires_grad_()
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    optimiser = torch.optim.Adam([exponent, weight, bias], lr=LR)
    for _ in range(config.iterations):
        logits = gate(standardised, exponent.exp(), rank, config.k or len(rank)) @ weight.T + bias
        if exclusive:
            loss = F.cross_entropy(logits, targets)
        else:
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(targets)
        net = config.mix * weight.abs().sum() + (1 - config.mix) / 2 * weight.square().sum()
        optimiser.zero_grad()
        (loss + config.penalty * net).backward()
        optimiser.step()
    return exponent.detach().exp(), Linear(weight.detach(), bias.detach())
