"""What is attacked: a model with erasures that are attached while it is looked at, and what looking costs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from efface.erasures import Erasure
from efface.models.model import Model


@dataclass(frozen=True)
class ModelVariant:
    """A model, and the erasures that make it the erased one; none for the original.

    Both sides of an attack may be one pipeline: its erasures are attached when the erased model is asked and taken off
    again when the original is. A checkpoint that was erased by training is a pipeline of its own with no erasures.
    """

    model: Model
    erasures: tuple[Erasure, ...] = ()

    @contextmanager
    def attached(self) -> Iterator[Model]:
        """The model with its erasures on, its weights held constant: gradients go to the text alone."""
        place = _PLACE.get()
        if place is None:
            with ExitStack() as stack:
                self._attach(stack)
                yield self.model
        else:
            place.take(self)
            yield self.model

    def _attach(self, stack: ExitStack) -> None:
        with warnings.catch_warnings():
            # Attaching says each time what a text map does not reach; an attack attaches many times.
            warnings.filterwarnings("ignore", "the erasure does not reach")
            for erasure in self.erasures:
                stack.enter_context(erasure.attached(self.model.pipeline))
        stack.enter_context(frozen(self.model))


class _Place:
    """Where the target that was looked at last stays attached."""

    def __init__(self) -> None:
        self.held: ModelVariant | None = None
        self.stack = ExitStack()

    def take(self, target: ModelVariant) -> None:
        if self.held is not target:
            self.leave()
            target._attach(self.stack)
            self.held = target

    def leave(self) -> None:
        self.held = None
        self.stack.close()


_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def keep_attached() -> Iterator[None]:
    """While active, a target stays attached after it was looked at, until another one is.

    Every attachment compares the model's fingerprint, which takes seconds on a large model.
    """
    if _PLACE.get() is not None:
        yield
        return
    place = _Place()
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)
        place.leave()


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Hold a model's weights constant, so that gradients to the text cost no more than they must."""
    trained = [p for part in model.components().values() for p in part.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
