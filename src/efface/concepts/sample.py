"""Sample: a prompt to draw, its seed, and what the picture should show; and which seeds each purpose begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

T = TypeVar("T")
Finding = Literal["words", "embeddings", "states", "nothing"]
"""What an attack finds: tokens, embeddings in the place of some, text states in the place of what the text encoder makes, or no
input at all, since it changes weights or hands the model a picture."""


class FirstSeeds(NamedTuple):
    """The first seed of each purpose, far enough apart that no picture serves two."""

    statistics: int
    """Pictures from which mean activations of SAE latents are taken."""
    calibration: int
    """Pictures on which count and factor of latents are chosen."""
    audit: int
    """Pictures of an audit, before and after."""
    attack: int
    """Samples that an attack tries to bring back."""
    images: int
    """Pictures that attacks and erasers train on."""
    quality: int
    """Pictures on which an autoencoder is measured and never trained."""


SEEDS = FirstSeeds(statistics=10_000, calibration=20_000, audit=30_000, attack=40_000, images=60_000, quality=1_000_000)
"""The only table of these numbers; benchmarks count from 0 or name the seeds that their paper lists."""


@dataclass(frozen=True)
class Sample:
    """One picture that is asked for."""

    prompt: str
    seed: int = 0
    shows: tuple[str, ...] = ()
    """Concepts or classes that the picture should show, the one that is measured first; empty where nobody knows."""
    guidance: float | None = None
    """Guidance scale that the prompt brings with it; None is the run's."""
    name: str = ""
    """Name of the picture's file, where pictures are kept."""

    @property
    def concept(self) -> str | None:
        """The first of what it should show."""
        return self.shows[0] if self.shows else None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sample:
        """The sample that `dataclasses.asdict` and JSON made a dictionary of."""
        fields: dict[str, Any] = data | {"shows": tuple(data["shows"])}
        return cls(**fields)


def evenly_spaced(items: Sequence[T], count: int | None, *, repeat: bool = False) -> list[T]:
    """At most `count` of the items, evenly spaced; all where there are fewer, or where `count` is None.

    Args:
        items: what is chosen from.
        count: how many are wanted.
        repeat: give `count` also where there are fewer items, which are then taken again in turn.
    """
    if count is not None and count < len(items):
        return [items[i * len(items) // count] for i in range(count)]
    if repeat and count is not None and items:
        return [items[i % len(items)] for i in range(count)]
    return list(items)
