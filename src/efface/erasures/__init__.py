"""Erasures: small reversible edits of a model, one file a kind.

Names are imported when first used, so that a file is shown without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.registry import lazily

if TYPE_CHECKING:
    from efface.erasures.activation import ActivationEdit
    from efface.erasures.adapter import Adapter
    from efface.erasures.attachment import Attachment
    from efface.erasures.delta import WeightDelta
    from efface.erasures.erasure import KINDS, Erasure
    from efface.erasures.gated import GatedMap
    from efface.erasures.life import attached_to
    from efface.erasures.manifest import Manifest
    from efface.erasures.overview import Report, check
    from efface.erasures.policies import Policies
    from efface.erasures.provenance import Provenance
    from efface.erasures.textmap import TextMap

_HOMES = {
    "ActivationEdit": "efface.erasures.activation",
    "Adapter": "efface.erasures.adapter",
    "Attachment": "efface.erasures.attachment",
    "Erasure": "efface.erasures.erasure",
    "GatedMap": "efface.erasures.gated",
    "KINDS": "efface.erasures.erasure",
    "Manifest": "efface.erasures.manifest",
    "Policies": "efface.erasures.policies",
    "Provenance": "efface.erasures.provenance",
    "Report": "efface.erasures.overview",
    "TextMap": "efface.erasures.textmap",
    "WeightDelta": "efface.erasures.delta",
    "attached_to": "efface.erasures.life",
    "check": "efface.erasures.overview",
}

__all__ = [
    "KINDS", "ActivationEdit", "Adapter", "Attachment", "Erasure", "GatedMap", "Manifest", "Policies", "Provenance", "Report",
    "TextMap", "WeightDelta", "attached_to", "check",
]  # fmt: skip

__getattr__ = lazily(__name__, _HOMES, globals())
