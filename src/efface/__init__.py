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

from typing import TYPE_CHECKING

from efface.registry import lazily

if TYPE_CHECKING:
    from efface.api.answers import audit_answers
    from efface.api.attack import attack
    from efface.api.audit import audit
    from efface.api.checkpoint import audit_checkpoint
    from efface.api.erase import erase
    from efface.api.harden import harden
    from efface.api.red_team import RedTeam
    from efface.concepts.concept import Concept
    from efface.concepts.sample import Sample
    from efface.erasures import Erasure, Policies, TextMap, WeightDelta, attached_to, check
    from efface.erasures.diffusers_hook import hook, unhook
    from efface.errors import EffaceError, UsageError
    from efface.models.load import load
    from efface.models.model import Model
    from efface.models.sampling import Sampling
    from efface.models.vlm import VisionLanguageModel
    from efface.redteam.samples import Samples

__version__ = "0.2.0"

_HOMES = {
    "load": "efface.models.load",
    "erase": "efface.api.erase",
    "audit": "efface.api.audit",
    "audit_answers": "efface.api.answers",
    "audit_checkpoint": "efface.api.checkpoint",
    "attack": "efface.api.attack",
    "harden": "efface.api.harden",
    "Concept": "efface.concepts.concept",
    "Erasure": "efface.erasures",
    "Policies": "efface.erasures",
    "TextMap": "efface.erasures",
    "WeightDelta": "efface.erasures",
    "attached_to": "efface.erasures",
    "check": "efface.erasures",
    "hook": "efface.erasures.diffusers_hook",
    "unhook": "efface.erasures.diffusers_hook",
    "Model": "efface.models.model",
    "RedTeam": "efface.api.red_team",
    "Sample": "efface.concepts.sample",
    "Samples": "efface.redteam.samples",
    "Sampling": "efface.models.sampling",
    "VisionLanguageModel": "efface.models.vlm",
    "EffaceError": "efface.errors",
    "UsageError": "efface.errors",
}

__all__ = [
    "Concept", "EffaceError", "Erasure", "Model", "Policies", "RedTeam", "Sample", "Samples", "Sampling", "TextMap", "UsageError",
    "VisionLanguageModel", "WeightDelta", "attached_to", "attack", "audit", "audit_answers", "audit_checkpoint",
    "check", "erase", "harden", "hook",
    "load", "unhook",
]  # fmt: skip

__getattr__ = lazily(__name__, _HOMES, globals())
