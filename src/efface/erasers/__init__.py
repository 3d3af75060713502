"""Erasers: one file a published method, and its name in METHODS.

A method's file holds a frozen dataclass `Config`, `erase` and `extend` (see `efface.erasers.base`), and imports
nothing heavy at its top, so that its options can be listed without loading torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from efface.errors import UsageError

METHODS = ("rece", "preserve", "project", "saeuron", "anchored", "uce")
"""One registration a method."""


def method_module(name: str) -> ModuleType:
    """The module of the method called `name`; raises UsageError for an unknown one."""
    if name not in METHODS:
        raise UsageError(f"the method {name!r} is unknown; expected one of: {', '.join(METHODS)}.")
    return importlib.import_module(f"efface.erasers.{name}")


def method_summaries() -> dict[str, str]:
    """Method -> first line of its file's docstring, read without importing it."""
    folder = Path(__file__).parent
    return {name: (folder / f"{name}.py").read_text().split('"""')[1].splitlines()[0] for name in METHODS}
