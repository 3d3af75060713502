"""How a long job says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share that is done (0 to 1), and a line about it."""


def silent(done: float, line: str) -> None:
    """Progress that is told to nobody."""
