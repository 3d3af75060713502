"""Pictures with an erasure attached against pictures of what was exported and read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from efface.erasures import Erasure
from efface.errors import EffaceError
from efface.export.config import ExportConfig
from efface.models.model import Model


class Difference(NamedTuple):
    """Difference of two sets of pictures, in levels of 255."""

    mean: float
    largest: float


class Check:
    """Draws the same few pictures again and again.

    Args:
        erasure: its concepts' prompts are drawn, and what it retains.
        config: steps, guidance and size.
    """

    def __init__(self, erasure: Erasure, config: ExportConfig):
        concepts = erasure.provenance.concepts
        self.prompts = [concepts[0].prompts()[0], *erasure.provenance.keep[:1]]
        self.config = config

    def draw(self, pipeline: Any) -> np.ndarray:
        """Levels 0 to 255 (pictures height width 3)."""
        model = Model(pipeline)
        guidance = model.family.standard().guidance if self.config.guidance is None else self.config.guidance
        pictures = model.draw(
            self.prompts,
            seeds=range(len(self.prompts)),
            steps=self.config.steps,
            guidance=guidance,
            side=self.config.side,
        )
        return np.stack([np.asarray(picture, dtype=np.float64) for picture in pictures])

    def require_same(self, expected: np.ndarray, actual: np.ndarray, what: str) -> Difference:
        """The difference of two sets of pictures; raises EffaceError above the tolerance."""
        measured = difference(expected, actual)
        if not measured.mean <= self.config.tolerance:  # also where it is not a number
            raise EffaceError(
                f"{what}, read back, draws pictures that differ from the attached erasure's by {measured.mean:.2f} levels of 255 "
                f"on average; expected at most {self.config.tolerance:g}: nothing was written."
            )
        return measured


def difference(one: np.ndarray, other: np.ndarray) -> Difference:
    """Mean and largest difference of pictures, in levels."""
    distance = np.abs(one - other)
    return Difference(float(distance.mean()), float(distance.max()))


def require_all(expected: Sequence[str], actual: Sequence[str], where: str) -> None:
    """Raise EffaceError unless what was read back holds every name, and no other."""
    missing = sorted(set(expected) - set(actual))
    other = sorted(set(actual) - set(expected))
    if missing or other:
        raise EffaceError(
            f"{where} took {len(set(actual) & set(expected))} of {len(set(expected))} edited layers "
            f"(first of the others: {(missing or other)[0]}): nothing was written."
        )
