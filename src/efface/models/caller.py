"""Which pipeline is at work: networks that several pipelines share are told apart by who calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_AT_WORK: ContextVar[Any] = ContextVar("at_work", default=None)
_HALVES: ContextVar[bool | None] = ContextVar("halves", default=None)
_LISTENERS: list[Callable[[Any], None]] = []


def pipeline_at_work() -> Any:
    """The pipeline whose call this thread is in; None where a network is called by itself."""
    return _AT_WORK.get()


def before_work(listener: Callable[[Any], None]) -> None:
    """Have `listener(pipeline)` called before a pipeline begins to work; what it raises ends the call."""
    _LISTENERS.append(listener)


@contextmanager
def at_work(pipeline: Any) -> Iterator[None]:
    """Context in which the networks that are called are called for a pipeline."""
    if _AT_WORK.get() is pipeline:
        yield
        return
    for listener in _LISTENERS:
        listener(pipeline)
    token = _AT_WORK.set(pipeline)
    try:
        yield
    finally:
        _AT_WORK.reset(token)


@contextmanager
def in_halves(guided: bool, *, unless_said: bool = False) -> Iterator[None]:
    """Context in which the denoiser is known to be given an unconditional half before the conditional one, or none.

    Args:
        guided: whether there is one.
        unless_said: leave it to an outer context where there is one.
    """
    if unless_said and _HALVES.get() is not None:
        yield
        return
    token = _HALVES.set(guided)
    try:
        yield
    finally:
        _HALVES.reset(token)


def has_halves() -> bool | None:
    """Whether the first half of the rows that the denoiser is given now is the unconditional one; None where neither efface's own
    drawing nor the pipeline at work says so."""
    if _HALVES.get() is not None:
        return _HALVES.get()
    return getattr(pipeline_at_work(), "do_classifier_free_guidance", None)
