"""What is attacked: a model with erasures that are attached while it is looked at, and what looking costs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from efface.erasures import Erasure
from efface.models.model import Model


@dataclass(frozen=True)
class Target:
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
        self.held: Target | None = None
        self.stack = ExitStack()

    def take(self, target: Target) -> None:
        if self.held is not target:
            self.leave()
            target._attach(self.stack)
            self.held = target

    def leave(self) -> None:
        self.held = None
        self.stack.close()


_PLACE: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def staying() -> Iterator[None]:
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


class Cost(NamedTuple):
    """What an attack spent; one unit is one picture's latents, or one prompt, through a network once."""

    denoiser: int
    """Evaluations of the denoiser; a guided step counts twice, a gradient step as its forward pass."""
    encoder: int
    """Prompts through the text encoder."""
    seconds: float

    def __add__(self, other: tuple[Any, ...]) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.denoiser:,} denoiser and {self.encoder:,} text encoder evaluations, {self.seconds:.0f} s"

    def shared(self, count: int) -> Cost:
        """One of `count` equal parts."""
        return Cost(round(self.denoiser / count), round(self.encoder / count), round(self.seconds / count, 3))


NOTHING = Cost(0, 0, 0.0)


class Meter:
    """Counts the rows that go through the networks of some models while it is active."""

    def __init__(self, *models: Model):
        self.denoiser, self.encoder = 0, 0
        self.denoisers = {id(m): m for m in (model.entries()[0].module for model in models)}
        self.encoders = {id(m): m for model in models for m in model.family.text_encoders().values()}
        self.prompts_each = len(models[0].family.text_encoders())

    def __enter__(self) -> Meter:
        self.handles = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for modules, hook in ((self.denoisers, self._denoiser), (self.encoders, self._encoder))
            for module in modules.values()
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def cost(self, seconds: float) -> Cost:
        """What was counted so far."""
        return Cost(self.denoiser, self.encoder // self.prompts_each, seconds)

    def _denoiser(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.denoiser += _rows(args, kwargs)

    def _encoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.encoder += _rows(args, kwargs)


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The batch of a call, from its first tensor."""
    return next(len(value) for value in (*args, *kwargs.values()) if hasattr(value, "shape"))
