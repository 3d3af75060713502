"""Judges decide what a picture shows; each verdict carries what determined it.

Names are imported when first used, so that a judge's short name can be checked before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efface.judges.base import Judge, Verdicts
    from efface.judges.embedded import EmbeddedJudge, embedded_judge
    from efface.judges.spec import SPECS, open_judge

_HOMES = {
    "Judge": "efface.judges.base",
    "Verdicts": "efface.judges.base",
    "EmbeddedJudge": "efface.judges.embedded",
    "embedded_judge": "efface.judges.embedded",
    "SPECS": "efface.judges.spec",
    "open_judge": "efface.judges.spec",
}

__all__ = ["SPECS", "EmbeddedJudge", "Judge", "Verdicts", "embedded_judge", "open_judge"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'efface.judges' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
