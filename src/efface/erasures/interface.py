"""What an edit of a model is: what it changes, what its file holds, and what tells it from another."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.io.digest import sha256_of_tensor
from efface.models.model import Model


class Reader(NamedTuple):
    """What a hook runs that reads and changes nothing: of a batch of which an erasure acts on some rows, it is given all."""

    read: Callable[..., None]

    def __call__(self, module: nn.Module, *call: Any) -> None:
        self.read(module, *call)


@dataclass(frozen=True, eq=False)
class ModelEdit(ABC):
    """A small edit of a model, of one kind."""

    provenance: Provenance

    kind: ClassVar[str]
    """Name of the kind in files."""
    acts_on: ClassVar[Literal["text", "weights", "activations", "prompts", "sampling"]]
    """Text states on their way into the denoiser (weights when folded), weights, the outputs of modules, which states there are
    for a prompt, or what is made of either while a picture is drawn."""
    lost_in_weights: ClassVar[str] = ""
    """What whoever folds or exports it is warned of; empty where weights hold all of it."""
    requires: ClassVar[tuple[str, ...]] = ()
    """What a reader of its files must have installed beside efface, such as `my-plugin>=1.2`."""

    @property
    def parts(self) -> tuple[ModelEdit, ...]:
        """The erasures that it holds: itself, where it is one."""
        return (self,)

    @property
    def by_policy(self) -> str:
        """Digest of the policies that say on which rows of a batch it acts; empty where it acts on all."""
        return ""

    @property
    def maps_pooled(self) -> bool:
        """Whether it maps the pooled text too, where one enters beside the text states."""
        return False

    @property
    def reads_prompts_only(self) -> bool:
        """Whether text that enters past the text states escapes it."""
        return self.acts_on == "text"

    def targets(self) -> list[str] | None:
        """Full names of the weights it edits; None means every text projection, and where `maps_pooled` says so those of
        pooled text.

        Raises:
            EffaceError: no edit of weights does the same.
        """
        raise EffaceError(f"this erasure edits {self.acts_on}, which no weight does: attach it without folding.")

    def touches(self) -> list[str] | None:
        """Full names of the tensors and modules of a model that decide whether it fits; None means what an edit of text touches:
        every text projection, and the text encoders."""
        return self.targets() if self.acts_on == "weights" else None

    @property
    def acts_in_encoders(self) -> bool:
        """Whether it edits text encoders and nothing else, so that text states which are given pass it by."""
        touched = self.touches()
        return bool(touched) and all(name.startswith("text_encoder") for name in touched)

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """The edited weight of the tensor called `name`; raises EffaceError as `targets` does."""
        raise EffaceError(f"this erasure edits {self.acts_on}, which no weight does: {name} was left as it is.")

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """Thin (out n) and (in n) in float64 whose product `left rightᵀ` is the change of a weight; None where it is dense."""
        return None

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """What does not live in weights: hooks on a model's modules, in the order in which they run; none is registered."""
        return []

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """The same, where they act on some rows of a batch as on a batch of those rows: what a policy of single requests needs.

        A hook is given those rows of every tensor of a call, and what it returns goes back to them; one that runs a `Reader` is given
        all rows.

        Raises:
            EffaceError: it acts on whole batches only.
        """
        raise EffaceError(
            f"the erasure of {self.names} ({self.kind}) acts on all rows of a batch: leave it out of the policies, or give it a "
            "pipeline of its own."
        )

    def hooks(self, model: Model, scale: float) -> list[RemovableHandle]:
        """Register the `changes` for whoever calls the model's networks; returns the handles that end it.

        `Erasure.attach` does more: it acts for one pipeline only, and follows it through its life.
        """
        return [hook.register() for hook in self.changes(model, scale)]

    @cached_property
    def digest(self) -> str:
        """What the edit is: sha256 over its kind, its method's configuration and its tensors.

        The same file loaded twice is one erasure, by whatever object it is held.
        """
        hashed = hashlib.sha256(f"{self.kind} {self.provenance.method}".encode())
        hashed.update(json.dumps(self.provenance.config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.tensors().items()):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sha256_of_tensor(tensor)}".encode())
        return hashed.hexdigest()

    @property
    def names(self) -> str:
        """The concepts in words: 'church', 'cat'."""
        return ", ".join(repr(concept.name) for concept in self.provenance.concepts)

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
