"""How a long job says how far it is: the share that is done, and every denoising step on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

Progress = Callable[[float, str], None]
"""Called with the share that is done (0 to 1), and a line about it."""


def silent(done: float, line: str) -> None:
    """Progress that is told to nobody."""


class Step(NamedTuple):
    """One denoising step of a batch of pictures, just done."""

    number: int
    """1 for the first."""
    steps: int
    pictures: int

    def __str__(self) -> str:
        many = "a picture" if self.pictures == 1 else f"{self.pictures} pictures"
        return f"step {self.number} of {self.steps} of {many}"


class TrainingStep(NamedTuple):
    """One step of a training, just done."""

    number: int
    """1 for the first."""
    steps: int
    loss: float

    def __str__(self) -> str:
        return f"training step {self.number} of {self.steps}, loss {self.loss:.4g}"


Listener = Callable[[Step | TrainingStep | str], None]
"""Told every denoising step, every step of a training, or a line about other work."""
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def on_step(listener: Listener) -> Iterator[None]:
    """Context in which `listener`, and no outer one, is told every denoising step of any model."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(step: Step | TrainingStep | str) -> None:
    """Tell whoever listens; models call it after every denoising step, searches with a line after every iteration."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(step)


@contextmanager
def drawing(progress: Progress, pictures: int, *, drawn: int = 0) -> Iterator[None]:
    """Context in which every denoising step tells `progress` which share of so many pictures is drawn; from the first step of a
    training on, which share of that is done, since what is rolled meanwhile is none of these pictures.

    Args:
        progress: told the share and a line.
        pictures: how many are drawn altogether.
        drawn: how many of them were drawn before.
    """
    if progress is silent:
        yield
        return
    before = float(drawn)
    trained: TrainingStep | None = None

    def listen(step: Step | TrainingStep | str) -> None:
        """Tell of a step."""
        nonlocal before, trained
        if isinstance(step, TrainingStep):
            trained = step
            progress(step.number / step.steps, str(step))
        elif trained is not None:
            progress(trained.number / trained.steps, f"{trained}, {step}")
        elif isinstance(step, Step):
            now = before + step.pictures * step.number / step.steps
            progress(min(1.0, now / max(1, pictures)), f"{int(now)} of {pictures} pictures, {step}")
            if step.number == step.steps:
                before = now

    with on_step(listen):
        yield


def part(progress: Progress, first: float, last: float, what: str = "") -> Progress:
    """Progress of a part of a job, which takes it from the share `first` to the share `last`."""
    if progress is silent:
        return silent
    return lambda done, line: progress(first + done * (last - first), f"{what}: {line}" if what else line)


def duration(seconds: float) -> str:
    """Seconds in the unit in which they are easily read."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
