"""The interface of a measure: a judge that must know more than the picture itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from efface.bench.unit import Unit
from efface.judges import Judge


@runtime_checkable
class ImageMetric(Protocol):
    """Pictures of a unit in, an entry for each out, recorded beside the judges' verdicts."""

    name: str
    """Name and version, with every setting that changes a number; empty where nothing is recorded and nothing determined."""

    def measure(self, unit: Unit, pictures: Sequence[Image.Image]) -> list[dict[str, Any] | None]:
        """What is recorded of each picture, as plain JSON; None records nothing.

        Args:
            unit: whose pictures they are: its prompts, seeds and erasures.
            pictures: in the unit's order.
        """
        ...


Observer = Judge | ImageMetric
"""What looks at pictures."""
