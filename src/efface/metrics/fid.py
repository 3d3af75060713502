"""Distances between sets of pictures over the features of any extractor: FID, KID, precision and recall, density and coverage.

Everything is float64. Sources: FID, arXiv 1706.08500; KID, arXiv 1801.01401; improved precision and recall, arXiv
1904.06991; density and coverage, arXiv 2002.09797.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError


class Moments:
    """Mean and covariance of features, gathered batch by batch."""

    def __init__(self, width: int):
        self.count = 0
        self.sum = torch.zeros(width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add features (batch width)."""
        wide = features.double().cpu()
        self.count += len(wide)
        self.sum += wide.sum(0)
        self.outer += wide.T @ wide

    @property
    def mean(self) -> Tensor:
        """Mean of the features (width,)."""
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance of the features (width width); raises EffaceError for fewer than two pictures."""
        if self.count < 2:
            raise EffaceError(f"a covariance of {self.count} pictures was asked for; expected at least 2.")
        return (self.outer - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """FID of two Gaussians: |m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁C₂)^½).

    The trace of the root is the sum of the singular values of C₁^½ C₂^½: no root of a matrix that is not symmetric is
    taken, nothing imaginary has to be thrown away, and fewer pictures than features do no harm.
    """
    cross = torch.linalg.svdvals(_root(covariance) @ _root(other_covariance)).sum()
    return float((mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * cross)


def fid(features: Tensor, others: Tensor) -> float:
    """FID of two sets of features (pictures width)."""
    first, second = Moments(features.shape[1]), Moments(others.shape[1])
    first.add(features)
    second.add(others)
    return frechet(first.mean, first.covariance, second.mean, second.covariance)


def kid(
    features: Tensor, others: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID, mean and standard deviation over subsets: unbiased MMD² with the kernel (x·y/width + 1)³."""
    generator = torch.Generator().manual_seed(seed)
    first, second = features.double().cpu(), others.double().cpu()
    size = min(size, len(first), len(second))
    if size < 2:
        raise EffaceError(f"KID of {size} pictures was asked for; expected at least 2 on either side.")
    values = torch.tensor(
        [
            _mmd(first[_choose(len(first), size, generator)], second[_choose(len(second), size, generator)])
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return float(values.mean()), float(values.std(correction=0))


class Coverage(NamedTuple):
    """How two sets of features lie to each other."""

    precision: float
    """Share of the second set inside the neighbourhoods of the first."""
    recall: float
    """Share of the first set inside the neighbourhoods of the second."""
    density: float
    """How many neighbourhoods of the first hold a picture of the second, over k."""
    coverage: float
    """Share of the first set's neighbourhoods that hold a picture of the second."""


def coverage(real: Tensor, generated: Tensor, *, k: int = 5) -> Coverage:
    """Precision, recall, density and coverage with balls that reach to the k-th nearest of the own set.

    Raises:
        EffaceError: a set has no more than k pictures.
    """
    if min(len(real), len(generated)) <= k:
        raise EffaceError(
            f"{min(len(real), len(generated))} pictures are too few for k = {k}: give at least {k + 1} on either side."
        )
    first, second = real.double().cpu(), generated.double().cpu()
    radius, other_radius = _radius(first, k), _radius(second, k)
    distance = torch.cdist(first, second)
    inside = distance < radius[:, None]
    return Coverage(
        precision=float(inside.any(0).double().mean()),
        recall=float((distance < other_radius[None]).any(1).double().mean()),
        density=float(inside.double().sum(0).mean() / k),
        coverage=float((distance.amin(1) < radius).double().mean()),
    )


def _radius(features: Tensor, k: int) -> Tensor:
    return torch.cdist(features, features).kthvalue(k + 1, dim=1).values  # the nearest is the picture itself


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    rounding = values.max() * len(values) * torch.finfo(values.dtype).eps
    return (vectors * torch.where(values > rounding, values, 0.0).sqrt()) @ vectors.T


def _choose(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[:size]


def _mmd(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    xx, yy = kernel(x, x), kernel(y, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())
