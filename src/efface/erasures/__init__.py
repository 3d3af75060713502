"""Erasures: small reversible edits of a model, one file a kind.

Names are imported when first used, so that a file is shown without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.registry import lazily

if TYPE_CHECKING:
    from efface.erasures.activation import ActivationEdit
    from efface.erasures.delta import WeightDelta
    from efface.erasures.erasure import KINDS, Erasure
    from efface.erasures.provenance import Provenance
    from efface.erasures.stack import Attachment, attached_to
    from efface.erasures.textmap import TextMap

_HOMES = {
    "ActivationEdit": "efface.erasures.activation",
    "Attachment": "efface.erasures.stack",
    "Erasure": "efface.erasures.erasure",
    "KINDS": "efface.erasures.erasure",
    "Provenance": "efface.erasures.provenance",
    "TextMap": "efface.erasures.textmap",
    "WeightDelta": "efface.erasures.delta",
    "attached_to": "efface.erasures.stack",
}

__all__ = ["KINDS", "ActivationEdit", "Attachment", "Erasure", "Provenance", "TextMap", "WeightDelta", "attached_to"]

__getattr__ = lazily(__name__, _HOMES, globals())
