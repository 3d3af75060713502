"""efface removes concepts from text-to-image diffusion models, and proves that they are gone.

    pipe = efface.load("emoji")
    erasure = efface.erase(pipe, "church", method="rece")
    with erasure.attached(pipe):
        pipe("a church in noto style").images[0]
    erasure.save("church.safetensors")
    efface.audit(pipe, erasure).save("card")

Names are imported when first used, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efface.api import erase
    from efface.attacking import attack
    from efface.auditing import audit
    from efface.concept import Concept
    from efface.erasures import Erasure, TextMap, WeightDelta, attached_to
    from efface.erasures.hook import hook, unhook
    from efface.errors import EffaceError, UsageError
    from efface.hardening import harden
    from efface.loading import load
    from efface.model import Model
    from efface.redteam import RedTeam

_HOMES = {
    "load": "efface.loading",
    "erase": "efface.api",
    "audit": "efface.auditing",
    "attack": "efface.attacking",
    "harden": "efface.hardening",
    "Concept": "efface.concept",
    "Erasure": "efface.erasures",
    "TextMap": "efface.erasures",
    "WeightDelta": "efface.erasures",
    "attached_to": "efface.erasures",
    "hook": "efface.erasures.hook",
    "unhook": "efface.erasures.hook",
    "Model": "efface.model",
    "RedTeam": "efface.redteam",
    "EffaceError": "efface.errors",
    "UsageError": "efface.errors",
}

__all__ = [
    "Concept", "EffaceError", "Erasure", "Model", "RedTeam", "TextMap", "UsageError", "WeightDelta", "attached_to", "attack", "audit",
    "erase", "harden", "hook", "load", "unhook",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'efface' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
