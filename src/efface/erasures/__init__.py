"""Erasures: small reversible edits of a model, one file a kind."""

from efface.erasures.activation import ActivationEdit
from efface.erasures.base import Erasure, Provenance, fingerprint
from efface.erasures.delta import WeightDelta
from efface.erasures.fingerprint import Fingerprint
from efface.erasures.lifecycle import Attachment, attached_to
from efface.erasures.textmap import TextMap

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
