"""Rates with intervals: UA, IRA and CRA, bootstrap over prompts, and paired tests between two erasures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from efface.errors import UsageError


class Rate(NamedTuple):
    """A share of pictures with its bootstrap interval."""

    value: float
    low: float
    high: float
    pictures: int
    """How many are behind it."""

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


class Paired(NamedTuple):
    """What changes from a first to a second erasure on the same prompts and seeds."""

    difference: float
    """Second less first."""
    low: float
    high: float
    p: float
    """Two-sided exact McNemar test on the pictures that differ."""


class Judged(NamedTuple):
    """One judged picture: what it should show, and whether it does."""

    prompt: int
    """Number of its prompt; pictures of one prompt are resampled together."""
    concept: str
    """What the prompt asks for in the erased domain."""
    other: str
    """What it asks for in the other domain."""
    shown: bool
    """Whether it shows what the prompt asks for in the erased domain."""
    shown_other: bool
    """Whether it shows what the prompt asks for in the other domain."""


class Scores(NamedTuple):
    """UnlearnCanvas's three rates."""

    ua: Rate
    """Unlearning accuracy: pictures of the erased concepts that no longer show them."""
    ira: Rate
    """In-domain retain accuracy: pictures of the other concepts that show theirs."""
    cra: Rate
    """Cross-domain retain accuracy: pictures whose other domain is right."""


def rate(
    hits: Sequence[bool], clusters: Sequence[int] | None = None, *, level: float = 0.95, resamples: int = 2000
) -> Rate:
    """A share and its percentile-bootstrap interval; whole clusters (prompts) are resampled where they are given.

    The interval is never narrower than Wilson's for as many independent pictures as there are clusters: resampling a
    share of 100% would say that nothing else can happen.
    """
    if not len(hits):
        return Rate(value=math.nan, low=math.nan, high=math.nan, pictures=0)
    value, low, high = bootstrap(hits, clusters, level=level, resamples=resamples)
    least, most = wilson(value, len(hits) if clusters is None else len(set(clusters)), level=level)
    return Rate(value=value, low=min(low, least), high=max(high, most), pictures=len(hits))


def bootstrap(
    values: Sequence[float], clusters: Sequence[int] | None = None, *, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean, and the ends of its percentile-bootstrap interval; all three are NaN without values."""
    if not len(values):
        return math.nan, math.nan, math.nan
    array = np.asarray(values, dtype=float)
    sums, sizes = _by_cluster(array, clusters)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(_resampled(sums, sizes, resamples), [tail, 100 - tail])
    return float(array.mean()), float(low), float(high)


def wilson(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of `count` independent pictures."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (middle - spread) / (1 + z * z / count)), min(1.0, (middle + spread) / (1 + z * z / count))


def bonett_price(only_first: float, only_second: float, count: float) -> tuple[float, float]:
    """Bonett and Price's 95% interval (2012) of the paired difference, second less first, of `count` pictures.

    Args:
        only_first, only_second: pictures that only one of both hits.
        count: all pictures.
    """
    first, second = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    spread = NormalDist().inv_cdf(0.975) * math.sqrt((first + second - (second - first) ** 2) / (count + 2))
    return max(-1.0, second - first - spread), min(1.0, second - first + spread)


def paired(
    first: Sequence[bool], second: Sequence[bool], clusters: Sequence[int] | None = None, *, resamples: int = 2000
) -> Paired:
    """Compare two erasures picture by picture.

    As for `rate`, the interval is never narrower than Bonett and Price's for as many pictures as there are clusters.

    Raises:
        UsageError: they were not judged on the same pictures.
    """
    if len(first) != len(second):
        raise UsageError(
            f"{len(first)} pictures are compared with {len(second)}: run both on the same prompts and seeds."
        )
    if not len(first):
        return Paired(difference=math.nan, low=math.nan, high=math.nan, p=1.0)
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    difference, low, high = bootstrap((b - a).tolist(), clusters, resamples=resamples)
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    count = len(a) if clusters is None else len(set(clusters))
    least, most = bonett_price(only_a * count / len(a), only_b * count / len(a), count)
    return Paired(difference=difference, low=min(low, least), high=max(high, most), p=mcnemar(only_a, only_b))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of as uneven a split of the pictures that differ, were both erasures alike."""
    total, least = only_first + only_second, min(only_first, only_second)
    below = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    return min(1.0, 2 * below)


def scores(pictures: Sequence[Judged], erased: Sequence[str], *, cross: str = "all", resamples: int = 2000) -> Scores:
    """UA, IRA and CRA (UnlearnCanvas, arXiv 2402.11846).

    Args:
        pictures: every judged picture of an erased model.
        erased: concepts of one domain.
        cross: pictures that count for CRA: `all` (the protocol), or `retained`, those of the other concepts alone.
        resamples: of the bootstrap.
    """
    of_erased = [p for p in pictures if p.concept in erased]
    of_others = [p for p in pictures if p.concept not in erased]
    of_cross = pictures if cross == "all" else of_others

    def share(group: Sequence[Judged], hits: Sequence[bool]) -> Rate:
        return rate(hits, [p.prompt for p in group], resamples=resamples)

    return Scores(
        ua=share(of_erased, [not p.shown for p in of_erased]),
        ira=share(of_others, [p.shown for p in of_others]),
        cra=share(of_cross, [p.shown_other for p in of_cross]),
    )


def means_by_cluster(values: Sequence[float], clusters: Sequence[int], *, resamples: int = 2000) -> np.ndarray:
    """Means of resampled clusters (resamples,); those of several values of the same pictures are of the same clusters."""
    return _resampled(*_by_cluster(np.asarray(values, dtype=float), clusters), resamples)


def _by_cluster(values: np.ndarray, clusters: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    if clusters is None:
        return values, np.ones_like(values)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(float)


def _resampled(sums: np.ndarray, sizes: np.ndarray, resamples: int) -> np.ndarray:
    """Means of resampled clusters; the generator is fixed, so that a table is the same every time it is printed."""
    chosen = np.random.default_rng(0).integers(len(sums), size=(resamples, len(sums)))
    return sums[chosen].sum(1) / sizes[chosen].sum(1)
