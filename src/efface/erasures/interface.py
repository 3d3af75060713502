"""What an edit of a model is: what it changes and what its file holds; its life on a pipeline stands in `stack`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.models.model import Model


@dataclass(frozen=True, eq=False)
class ModelEdit(ABC):
    """A small edit of a model, of one kind."""

    provenance: Provenance

    kind: ClassVar[str]
    """Name of the kind in files."""
    acts_on: ClassVar[Literal["text", "weights", "activations"]]
    """Text states on their way into the denoiser (weights when folded), weights, or the outputs of modules."""

    def targets(self) -> list[str] | None:
        """Full names of the weights it edits; None means every text projection.

        Raises:
            EffaceError: no edit of weights does the same.
        """
        raise EffaceError(f"this erasure edits {self.acts_on}, which no weight does: attach it without folding.")

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """The edited weight of the tensor called `name`; raises EffaceError as `targets` does."""
        raise EffaceError(f"this erasure edits {self.acts_on}, which no weight does: {name} was left as it is.")

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """Thin (out n) and (in n) in float64 whose product `left rightᵀ` is the change of a weight; None where it is dense."""
        return None

    def hooks(self, model: Model, scale: float) -> list[RemovableHandle]:
        """Register what does not live in weights on a model; returns handles that take it off."""
        return []

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the file holds."""

    @classmethod
    @abstractmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError when `tensors` are not of this kind, for text states of `width`."""

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> Self:
        """The erasure that `tensors()` came from."""
        return cls(provenance, **tensors)
