"""Sketches of weights, and whether two are of the same weights: rounded to another dtype, or to the few bits of a quantiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import NamedTuple

ROUNDING = 8e-3
"""Largest difference of a number that rounding explains: bf16 moves one by about 1.6e-3, this is five times that."""
QUANTISATION = 0.5
"""Largest root mean square of the differences that a quantiser explains: 2 bits move a number by about 0.3, other weights by 1.4."""


class Sketch(NamedTuple):
    """Numbers of standard deviation 1 that follow from weights."""

    numbers: tuple[float, ...]
    """Empty where the weights could not be read."""
    coarse: bool = False
    """Whether few bits hold the weights."""


class Difference(NamedTuple):
    """In what a model differs from the one that an erasure was made for."""

    text: str = ""
    """In words; empty where it is the same."""
    structural: bool = False
    """Whether names or shapes differ, not values alone."""
    remark: str = ""
    """What is to be said all the same; empty where nothing is."""


def values_difference(known: Sequence[Sketch], own: Sequence[Sketch]) -> Difference:
    """In what weights differ from known ones, from a sketch of each tensor."""
    pairs = [(a, b) for a, b in zip(known, own, strict=True) if len(a.numbers) == len(b.numbers) > 0]
    exact = _changes(pair for pair in pairs if not pair[0].coarse and not pair[1].coarse)
    coarse = _changes(pair for pair in pairs if pair[0].coarse or pair[1].coarse)
    distance = max(map(abs, exact), default=0.0)
    if distance > ROUNDING:
        return Difference(f"other weights (distance {distance:.3g}, rounding explains {ROUNDING:g})")
    distance = sqrt(sum(change**2 for change in coarse) / max(1, len(coarse)))
    if distance > QUANTISATION:
        return Difference(f"other weights (distance {distance:.3g}, quantisation explains {QUANTISATION:g})")
    if known and not pairs:
        return Difference(remark="its weights are not in memory and were not compared: names and shapes are the same")
    return Difference()


def cosine(known: Sequence[Sketch], own: Sequence[Sketch]) -> float:
    """How alike two lists of sketches are as directions, −1 to 1, over those that could be read."""
    pairs = [
        pair
        for a, b in zip(known, own, strict=True)
        if a.numbers and b.numbers
        for pair in zip(a.numbers, b.numbers, strict=True)
    ]
    norms = sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
    return sum(a * b for a, b in pairs) / norms if norms else 0.0


def _changes(pairs: Iterable[tuple[Sketch, Sketch]]) -> list[float]:
    """Differences of the numbers of pairs of sketches."""
    return [b - a for known, own in pairs for a, b in zip(known.numbers, own.numbers, strict=True)]
