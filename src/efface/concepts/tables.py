"""Packed tables that lie in this package."""

from __future__ import annotations

import lzma
from importlib import resources


def packed_lines(name: str) -> list[str]:
    """The lines of a text packed by xz in the folder of tables."""
    return lzma.decompress((resources.files("efface") / "concepts" / "data" / name).read_bytes()).decode().split("\n")
