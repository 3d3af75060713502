"""What a writer hands back: what it wrote, as the tools that read it have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor


class Reading(NamedTuple):
    """An export as one tool reads it."""

    weights: Iterable[tuple[str, Tensor]]
    """Full name and value of every weight that was read, edited or not, in any precision."""
    pipeline: Callable[[], AbstractContextManager[Any]]
    """A pipeline that draws with these weights, for a moment; asked for only where pictures are compared."""


class Written(NamedTuple):
    """An export that has yet to be compared."""

    names: Sequence[str]
    """Full names of the weights that every reading must hold."""
    notes: dict[str, Any]
    """What the user is told: rank, layers, tensors, by target."""
    readings: Sequence[AbstractContextManager[Reading]]
    """One for each tool that is to read it."""
