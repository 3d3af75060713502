"""What erasures of text have in common: they change text on its way into every network that reads it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.erasures.erasure import Erasure
from efface.families.networks import Hook, TextInput
from efface.models.caller import is_aside
from efface.models.model import Model


@dataclass(frozen=True, eq=False)
class TextErasure(Erasure):
    """An erasure that maps text states, and perhaps the pooled text beside them."""

    acts_on = "text"

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the text states."""

    @property
    @abstractmethod
    def pooled_width(self) -> int | None:
        """Width of the pooled text that it maps; None where it leaves that as it is."""

    @abstractmethod
    def map_both(self, states: Tensor, vectors: Tensor | None, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Mapped text states (batch tokens width) and pooled text (batch pooled), which passes where it is not mapped."""

    @property
    def maps_pooled(self) -> bool:
        """Whether it maps pooled text."""
        return self.pooled_width is not None

    @abstractmethod
    def changes_at(self, text: TextInput, pooled: TextInput | None, scale: float) -> list[Hook]:
        """What is to happen at one call, where text states come and, in some networks, pooled text; no hook is registered."""

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """Map the text on its way into every network that reads it, but for that of guards."""
        return [
            hook._replace(run=_OfCallers(hook.run))
            for network in model.networks()
            for text in network.text_inputs
            for hook in self.changes_at(text, network.pooled, scale)
        ]

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """The same: a prompt is mapped by itself."""
        return self.changes(model, scale)

    def targets(self) -> None:
        """Every text projection: no weights are named."""
        return None


class _OfCallers:
    """A hook that is off while a network is called for a guard, whose concept would be erased before it is compared with."""

    def __init__(self, run: Callable[..., Any]):
        self.run = run

    def __call__(self, *call: Any) -> Any:
        if not torch.compiler.is_compiling() and is_aside():
            return None
        return self.run(*call)
