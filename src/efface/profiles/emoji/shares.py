"""The figures of an erasure on the emoji canvas: shares of pictures at which the unerased model shows what is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

FEWEST = 20
"""Pictures that a share needs to be a figure."""
GONE = 0.9
"""How often the erased object must be gone from two-object pictures for what is left of them to be a figure."""


class Share(NamedTuple):
    """Hits among pictures; shares of several erasures are added before they become a figure."""

    hits: int
    pictures: int

    @property
    def percent(self) -> float | None:
        """None for fewer pictures than `FEWEST`."""
        return round(100 * self.hits / self.pictures, 2) if self.pictures >= FEWEST else None

    @classmethod
    def of(cls, values: Iterable[bool]) -> Share:
        """Count."""
        values = list(values)
        return cls(sum(values), len(values))

    def __str__(self) -> str:
        return f"{100 * self.hits / self.pictures:.0f}% of {self.pictures}" if self.pictures else "none"


class Figures(NamedTuple):
    """What an erasure came to."""

    ua: Share
    """Pictures of the concept by its name that no longer show it."""
    ua_synonyms: Share
    """The same by held-out synonyms; of styles, nothing."""
    ua_descriptions: Share
    """The same by held-out descriptions; of styles, nothing."""
    ira_drop: Share
    """Pictures of other concepts of its kind that lost theirs."""
    cra_drop: Share
    """Pictures of other concepts whose style (or object, when a style is erased) is lost."""
    intact: Share
    """Pictures of the concept by its name that are whole."""
    gone: Share
    """Two-object pictures from which the erased object is gone."""
    in_picture: Share
    """Two-object pictures in which the other object, the place and the style are all still there."""
    other: Share
    place: Share
    style: Share
    """Two-object pictures in which the other object, the place, the style is still there."""
    empty: Share
    """Pictures of places alone that still show the place and nothing else."""
    identical: Share
    """Pictures whose prompts name neither the concept nor a listed synonym that are the same to the last bit."""

    def __str__(self) -> str:
        return "  ".join(
            f"{name.replace('_', ' ')} {share}" for name, share in self._asdict().items() if share.pictures
        )

    def to_json(self) -> dict[str, float | None]:
        """Percentages; what too few pictures stand behind is None, and so is `in_picture` where the object is not gone."""
        found = {name: share.percent for name, share in self._asdict().items()}
        if self.gone.hits < GONE * self.gone.pictures:
            found["in_picture"] = None
        return found


def added(several: Sequence[Figures]) -> Figures:
    """The figures of several erasures together."""
    return Figures(*(Share(*map(sum, zip(*column, strict=True))) for column in zip(*several, strict=True)))
