"""By what a learning rate is multiplied in each step."""

from __future__ import annotations

from math import cos, pi

RISE = 0.3
"""Share of its steps in which `one_cycle` rises."""


def one_cycle(number: int, steps: int) -> float:
    """From 1/25 up to 1 and down to 4e-6 along half waves of the cosine (Smith and Topin, 2017, arXiv 1708.07120), with the numbers
    that PyTorch's OneCycleLR has by default."""
    top = RISE * steps - 1
    if number <= top:
        return _along(1 / 25, 1.0, number / top)
    return _along(1.0, 1 / 25 / 1e4, min(1.0, (number - top) / (steps - 1 - top)))


def restarts(number: int, steps: int, warmup: int, cycles: int) -> float:
    """Up to 1 over a warm-up, then down to 0 along a half wave of the cosine, several times over."""
    if number < warmup:
        return number / warmup
    return _along(1.0, 0.0, cycles * (number - warmup) / max(1, steps - warmup) % 1.0)


def _along(start: float, end: float, share: float) -> float:
    """A half wave of the cosine from one value to another."""
    return end + (start - end) / 2 * (1 + cos(pi * share))
