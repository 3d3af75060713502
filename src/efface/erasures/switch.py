"""A model with some erasures on, which stay attached until others are asked for."""

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
        switch = _SWITCH.get()
        if switch is None:
            with ExitStack() as stack:
                self.attach(stack)
                yield self.model
        else:
            switch.to(self)
            yield self.model

    def attach(self, stack: ExitStack) -> None:
        """Attach the erasures and hold the weights constant until the stack closes."""
        with warnings.catch_warnings():
            # Attaching says each time what a text map does not reach; an attack attaches many times.
            warnings.filterwarnings("ignore", "the erasure does not reach")
            for erasure in self.erasures:
                stack.enter_context(erasure.attached(self.model.pipeline))
        stack.enter_context(freeze(self.model))


class Switch:
    """Keeps the variant that was used last attached until another one is used."""

    def __init__(self) -> None:
        self.current: ModelVariant | None = None
        self.stack = ExitStack()

    def to(self, variant: ModelVariant) -> None:
        """Attach a variant in place of the current one."""
        if self.current is not variant:
            self.off()
            variant.attach(self.stack)
            self.current = variant

    def off(self) -> None:
        """Take the current variant's erasures off."""
        self.current = None
        self.stack.close()


_SWITCH: ContextVar[Switch | None] = ContextVar("switch", default=None)


@contextmanager
def keep_attached() -> Iterator[None]:
    """While active, a variant stays attached after its use until another one is used.

    Every attachment compares the model's fingerprint, which takes seconds on a large model.
    """
    if _SWITCH.get() is not None:
        yield
        return
    switch = Switch()
    token = _SWITCH.set(switch)
    try:
        yield
    finally:
        _SWITCH.reset(token)
        switch.off()


@contextmanager
def freeze(model: Model) -> Iterator[None]:
    """Hold a model's weights constant, so that gradients to the text cost no more than they must."""
    trainable = [p for part in model.components().values() for p in part.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
