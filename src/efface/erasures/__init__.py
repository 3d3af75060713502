"""Erasures: small reversible edits of a model, one file a kind."""

from efface.erasures.activation import ActivationEdit
from efface.erasures.delta import WeightDelta
from efface.erasures.erasure import KINDS, Erasure
from efface.erasures.provenance import Provenance
from efface.erasures.stack import Attachment, attached_to
from efface.erasures.textmap import TextMap

__all__ = ["KINDS", "ActivationEdit", "Attachment", "Erasure", "Provenance", "TextMap", "WeightDelta", "attached_to"]
