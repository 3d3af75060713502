"""What a run will cost, said before it starts: pictures, seconds at the measured rate, and disk."""

from __future__ import annotations

from typing import Any, NamedTuple

from efface.io.progress import duration


class Cost(NamedTuple):
    """What a run still has to draw, and how long that takes; the pictures of the unerased model are shared by all erasures."""

    unerased: int
    """Pictures of the unerased model in the protocol."""
    erased: int
    """Pictures of erased models in the protocol."""
    erasures: int
    missing: int
    """Pictures without a result."""
    seconds_each: float
    """Seconds of one picture on one device."""
    devices: int
    seconds: float
    """Seconds of the missing pictures, divided over the devices."""
    bytes: int
    """The most that what is missing takes on disk; compression of pictures is not counted on."""

    def __str__(self) -> str:
        where = "one device" if self.devices == 1 else f"{self.devices} devices"
        erasures = "one erasure" if self.erasures == 1 else f"{self.erasures} erasures"
        return (
            f"{self.unerased:,} pictures of the unerased model and {self.erased:,} of {erasures}, "
            f"{self.missing:,} still to draw: about {duration(self.seconds)} on {where} at {self.seconds_each:.3g} s a "
            f"picture, at most {_size(self.bytes)} on disk"
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return self._asdict()


def _size(count: int) -> str:
    """Bytes in the unit in which they are easily read."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
