"""Logistic regression with an elastic net, to the optimum: FISTA (Beck and Teboulle, 2009) with restarts, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 3000
"""Most iterations."""
TOLERANCE = 1e-6
"""Largest entry of the gradient, less what the penalty holds, at which it stops."""


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
    rows = len(gated)
    mean = gated.mean(0)
    centred = gated - mean  # the bias absorbs it, and steps along the mean no longer hold back all others
    curvature = 0.5 if exclusive else 0.25
    step = 1 / (1e-12 + curvature * _largest_eigenvalue(centred) / rows + penalty * (1 - mix))
    weight, bias = start or Linear(
        targets.new_zeros(targets.shape[1], gated.shape[1]), targets.new_zeros(targets.shape[1])
    )
    bias = bias + weight @ mean
    ahead_weight, ahead_bias, momentum = weight, bias, 1.0
    for _ in range(STEPS):
        logits = centred @ ahead_weight.T + ahead_bias
        residual = ((logits.softmax(1) if exclusive else logits.sigmoid()) - targets) / rows
        slope = residual.T @ centred + penalty * (1 - mix) * ahead_weight
        new_weight = _shrunk(ahead_weight - step * slope, step * penalty * mix)
        new_bias = ahead_bias - residual.sum(0) / curvature
        moved_weight, moved_bias = new_weight - ahead_weight, new_bias - ahead_bias
        residue = max(_largest(moved_weight) / step, _largest(moved_bias) * curvature)
        # O'Donoghue and Candès (2015): momentum that points uphill is dropped.
        uphill = float((moved_weight * (new_weight - weight)).sum() / step + (moved_bias * (new_bias - bias)).sum()) < 0
        momentum, before = (1.0, 1.0) if uphill else ((1 + (1 + 4 * momentum**2) ** 0.5) / 2, momentum)
        pace = 0.0 if uphill else (before - 1) / momentum
        ahead_weight = new_weight + pace * (new_weight - weight)
        ahead_bias = new_bias + pace * (new_bias - bias)
        weight, bias = new_weight, new_bias
        if residue <= TOLERANCE:
            break
    return Linear(weight, bias - weight @ mean)


def _shrunk(values: Tensor, by: float) -> Tensor:
    """Values nearer to 0 by so much, or 0."""
    return values.sign() * (values.abs() - by).clamp(min=0)


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _largest_eigenvalue(centred: Tensor) -> float:
    """Of the Gram matrix of its columns."""
    if not centred.numel():
        return 0.0
    wide = centred.shape[0] < centred.shape[1]
    return float(torch.linalg.eigvalsh(centred @ centred.T if wide else centred.T @ centred)[-1])
