"""What erasures of text have in common: they change text on its way into every network that reads it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from efface.erasures.erasure import Erasure
from efface.families.networks import Hook, TextInput
from efface.models.model import Model


@dataclass(frozen=True, eq=False)
class TextErasure(Erasure):
    """An erasure that maps text states, and perhaps the pooled text beside them."""

    acts_on = "text"

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the text states."""

    @abstractmethod
    def changes_at(self, text: TextInput, pooled: TextInput | None, scale: float) -> list[Hook]:
        """What is to happen at one call, where text states come and, in some networks, pooled text; no hook is registered."""

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """Map the text on its way into every network that reads it."""
        return [
            hook
            for network in model.networks()
            for text in network.text_inputs
            for hook in self.changes_at(text, network.pooled, scale)
        ]

    def targets(self) -> None:
        """Every text projection: no weights are named."""
        return None
