"""The interface of a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor


class Verdicts(NamedTuple):
    """What a judge says of a batch of pictures."""

    labels: tuple[str, ...]
    """The most likely class of each picture."""
    scores: Tensor
    """Probability of every class (batch classes)."""
    intact: Tensor
    """Whether each picture is like a real one at all, rather than debris (batch)."""
    counts: Tensor | None = None
    """How often each class was found in each picture (batch classes), of detectors alone."""


class Detection(NamedTuple):
    """One box."""

    label: str
    score: float
    """Confidence, 0 to 1."""
    box: tuple[float, float, float, float]
    """Left, top, width and height in pixels of the picture."""


@runtime_checkable
class Detector(Protocol):
    """Images in, boxes out: what a judge that finds things where they are offers beside its verdicts."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The boxes of each picture, of any size."""
        ...


@runtime_checkable
class Featured(Protocol):
    """Images in, vectors out: what a judge that compares pictures by their features offers beside its verdicts."""

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """One vector a picture (batch width), of pictures of any size."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Images in, verdicts out."""

    name: str
    """Name and version, stored with every score."""
    classes: tuple[str, ...]
    """Names of its classes, in the order of `scores`."""
    detects: bool
    """Whether it counts what it finds in a picture (`Verdicts.counts`) rather than naming one class of it."""

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size; the resize is part of the judge."""
        ...
