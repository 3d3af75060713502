"""Which parameters of a test the fast suite runs."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def others_slow(names: Iterable[str], quick: Container[str]) -> list[Any]:
    """All names as parameters of a test, those that are not among the quick ones marked as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
