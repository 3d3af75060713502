"""Logistic regression with an elastic net, to the optimum: FISTA (Beck and Teboulle, 2009) with restarts, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 3000
"""Most iterations."""
TOLERANCE = 1e-6
"""Largest entry of the gradient, less what the penalty holds, at which it stops."""


WORKING = 512
"""Units that are taken up at a time."""


class Linear(NamedTuple):
    """Weights of a linear map."""

    weight: Tensor
    """(concepts units)"""
    bias: Tensor
    """(concepts,)"""


def solve(
    gated: Tensor, targets: Tensor, *, exclusive: bool, penalty: float, mix: float, start: Linear | None = None
) -> Linear:
    """The least mean cross-entropy + λ (α |W|₁ + (1 − α)/2 |W|²); the bias is not penalised.

    Args:
        gated: (rows units), in float64.
        targets: 1 where a row shows a concept (rows concepts).
        exclusive: softmax over the concepts, rather than a sigmoid each whose losses are summed.
        penalty: λ.
        mix: α.
        start: where it begins; zeros by default.
    """
    lasso = penalty * mix
    options = {"exclusive": exclusive, "penalty": penalty, "mix": mix}
    if not lasso or gated.shape[1] <= WORKING:
        return _descend(gated, targets, **options, start=start)
    # Most units end without a weight: those that the penalty does not hold at 0 are taken up until there is none.
    weight = targets.new_zeros(targets.shape[1], gated.shape[1]) if start is None else start.weight.clone()
    working = weight.any(0)
    centred = gated - gated.mean(0)
    while True:
        begin = None if start is None else Linear(weight[:, working], start.bias)
        start = _descend(gated[:, working], targets, **options, start=begin)
        weight[:, working] = start.weight
        residual = _residual(gated[:, working] @ start.weight.T + start.bias, targets, exclusive)
        slope = (residual.T @ centred).abs().amax(0).masked_fill(working, 0)
        lacking = int((slope > lasso + TOLERANCE).sum())
        if not lacking:
            return Linear(weight, start.bias)
        working[slope.topk(min(WORKING, lacking)).indices] = True


def _residual(logits: Tensor, targets: Tensor, exclusive: bool) -> Tensor:
    """Slope of the mean loss by the logits (rows concepts)."""
    return ((logits.softmax(1) if exclusive else logits.sigmoid()) - targets) / len(targets)


def _descend(
    gated: Tensor, targets: Tensor, *, exclusive: bool, penalty: float, mix: float, start: Linear | None
) -> Linear:
    """The same over all units at once; arguments as of `solve`."""
    rows, units = gated.shape
    mean = gated.mean(0)
    centred = gated - mean  # the bias absorbs it, and steps along the mean no longer hold back all others
    curvature = 0.5 if exclusive else 0.25
    # The last column is the bias, which no other column's curvature concerns.
    columns = torch.cat([centred, gated.new_ones(rows, 1)], 1)
    ridge = gated.new_full((units + 1,), penalty * (1 - mix))
    lasso = gated.new_full((units + 1,), penalty * mix)
    ridge[-1] = lasso[-1] = 0
    step = 1 / (gated.new_full((units + 1,), curvature * _largest_eigenvalue(centred) / rows + 1e-12) + ridge)
    step[-1] = 1 / curvature
    point = gated.new_zeros(targets.shape[1], units + 1)
    if start is not None:
        point = torch.cat([start.weight, (start.bias + start.weight @ mean)[:, None]], 1)
    ahead = point
    momentum = 1.0
    for _ in range(STEPS):
        logits = columns @ ahead.T
        slope = _residual(logits, targets, exclusive).T @ columns + ridge * ahead
        new = _shrink(ahead - step * slope, step * lasso)
        descent = (new - ahead) / step
        # O'Donoghue and Candès (2015): momentum that points uphill is dropped.
        uphill = bool((descent * (new - point)).sum() < 0)
        following = 1.0 if uphill else (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        pace = 0.0 if uphill else (momentum - 1) / following
        ahead = new + pace * (new - point)
        point = new
        momentum = following
        if float(descent.abs().max()) <= TOLERANCE:
            break
    weight = point[:, :-1].contiguous()
    return Linear(weight, point[:, -1] - weight @ mean)


def _shrink(values: Tensor, by: Tensor) -> Tensor:
    """Values nearer to 0 by so much, or 0."""
    return values.sign() * (values.abs() - by).clamp(min=0)


def _largest_eigenvalue(centred: Tensor) -> float:
    """Of the Gram matrix of its columns."""
    if not centred.numel():
        return 0.0
    wide = centred.shape[0] < centred.shape[1]
    return float(torch.linalg.eigvalsh(centred @ centred.T if wide else centred.T @ centred)[-1])
