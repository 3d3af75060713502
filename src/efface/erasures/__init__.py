"""Erasures: small reversible edits of a model, one file a kind."""

from efface.erasures.activation import ActivationEdit
from efface.erasures.delta import WeightDelta
from efface.erasures.erasure import Erasure, Provenance, fingerprint
from efface.erasures.stack import Attachment, attached_to
from efface.erasures.textmap import TextMap
from efface.models.fingerprint import Fingerprint

KINDS: dict[str, type[Erasure]] = {kind.kind: kind for kind in (TextMap, WeightDelta, ActivationEdit)}
"""Name of the kind in a file's header -> class."""

__all__ = [
    "KINDS",
    "ActivationEdit",
    "Attachment",
    "Erasure",
    "Fingerprint",
    "Provenance",
    "TextMap",
    "WeightDelta",
    "attached_to",
    "fingerprint",
]
