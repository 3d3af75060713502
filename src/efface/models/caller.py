"""Which pipeline is at work: networks that several pipelines share are told apart by who calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_AT_WORK: ContextVar[Any] = ContextVar("at_work", default=None)
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
