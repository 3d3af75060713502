"""What became of weights since erasures were written into them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from efface.erasures.fold_record import Folds, folds_in
from efface.erasures.places import Place, places_of
from efface.io.digest import sha256_of_tensor
from efface.models.originals import originals_in

ROUNDINGS = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Dtypes through which a model may have gone since."""


class WeightStatus(Enum):
    """What became of a weight since an erasure was written into it."""

    INTACT = "as it was written"
    ROUNDED = "as it was written, in another precision"
    ALTERED = "changed since"
    RESTORED = "what it was before the erasure"
    QUANTISED = "quantised since"
    UNREAD = "offloaded to disk and not compared"
    GONE = "no longer there"


class WeightCheck(NamedTuple):
    """What became of a weight at one place."""

    path: str
    place: Place | None
    status: WeightStatus
    through: torch.dtype | None = None
    """The coarsest precision that it went through."""
    share: tuple[float, float] = (0.0, 0.0)
    """Of a weight that was changed: ⟨W − W₀, Δ⟩ and ⟨Δ, Δ⟩, W₀ before the erasures, Δ what they changed."""


def inspect(network: nn.Module, paths: Iterable[str]) -> list[WeightCheck]:
    """What became of some weights of a network, at every place that holds them; every value is compared."""
    folds = folds_in(network)
    checks: list[WeightCheck] = []
    for path in sorted(paths):
        places = list(places_of(network, path))
        if folds is None or not places:
            checks.append(WeightCheck(path, None, WeightStatus.GONE))
        else:
            original = originals_in(network)[path]
            checks += [_compare(folds, path, place, original) for place in places]
    return checks


def _compare(folds: Folds, path: str, place: Place, original: Tensor) -> WeightCheck:
    if place.storage.packed:
        return WeightCheck(path, place, WeightStatus.QUANTISED)
    if not place.is_readable():
        return WeightCheck(path, place, WeightStatus.UNREAD)
    current = place.read()
    if current.shape != original.shape:
        return WeightCheck(path, place, WeightStatus.GONE)
    current = current.to("cpu", copy=True)
    written = folds.written[path]
    if current.dtype == written.dtype and sha256_of_tensor(current) == written.digest:
        return WeightCheck(path, place, WeightStatus.INTACT)
    full, wide = folds.value(path, original), current.double()
    for status, expected in ((WeightStatus.ROUNDED, full), (WeightStatus.RESTORED, original)):
        for dtype in dict.fromkeys((current.dtype, *ROUNDINGS)):
            if torch.equal(wide, expected.to(dtype).to(current.dtype).double()):
                return WeightCheck(path, place, status, dtype)
    change = full.double() - original.double()
    share = float(((wide - original.double()) * change).sum()), float(change.square().sum())
    return WeightCheck(path, place, WeightStatus.ALTERED, share=share)


def holds_erasure(shares: Iterable[tuple[float, float]]) -> bool | None:
    """Whether weights that were changed still hold the erasures under the change; None where that cannot be said.

    A weight that others added to is W₀ + Δ + X, one that was replaced W₀ + X: ⟨W − W₀, Δ⟩ / ⟨Δ, Δ⟩ is near 1 or near 0, since X
    has little to do with Δ.
    """
    pairs = list(shares)
    share = sum(dot for dot, _ in pairs) / (sum(norm for _, norm in pairs) or 1.0)
    return None if 0.4 < share < 0.6 else share >= 0.6


def replaced(network: nn.Module) -> bool:
    """Whether the weights of a network were replaced since erasures were written into them; quick, and no more than that.

    A weight that lies where it was seen last, and that torch did not write to, is not looked at; of others a few values are.
    """
    folds = folds_in(network)
    shares: list[tuple[float, float]] = []
    for path, written in folds.written.items() if folds else ():
        if written.seen and all(place.memory() == memory for place, memory in written.seen):
            continue
        places = list(places_of(network, path))
        for place in places:
            share = written.samples.share(place.read()) if place.is_readable() else None
            if share is not None:
                shares.append(share)
        written.seen = [(place, place.memory()) for place in places]
    return bool(shares) and holds_erasure(shares) is False
