"""What erasures wrote into the weights of a network: kept with the network, and copied with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.erasures.attachment import Attachment
from efface.erasures.places import Place, places_of
from efface.io.digest import sha256_of_tensor
from efface.models.originals import originals_in
from efface.models.precision import own_arithmetic

KEY = "_efface_folds"
"""Name of the attribute of a network that holds its `Folds`."""
SAMPLES = 32
"""Values of a weight, those that the erasure changes most of an evenly spaced choice, by which a replaced one is told."""


class Samples(NamedTuple):
    """A few values of a weight."""

    where: Tensor
    """Their indices in the flattened weight (samples,)."""
    before: Tensor
    """Before the erasures (samples,)."""
    written: Tensor
    """With them (samples,)."""

    @classmethod
    def of(cls, before: Tensor, written: Tensor) -> Samples:
        """Of an evenly spaced choice the values that the erasures change most."""
        count = before.numel()
        where = torch.arange(0, count, max(1, count // 4096))
        start, end = before.flatten()[where].double(), written.flatten()[where].double()
        most = (end - start).abs().topk(min(SAMPLES, len(where))).indices
        return cls(where[most], start[most], end[most])

    def share(self, weight: Tensor) -> tuple[float, float] | None:
        """⟨W − W₀, Δ⟩ and ⟨Δ, Δ⟩ of these values; None where nothing can be read."""
        if weight.is_meta or not weight.is_floating_point() or weight.numel() <= int(self.where.max()):
            return None
        values = weight.flatten()[self.where.to(weight.device)].to("cpu", torch.float64)
        change = self.written - self.before
        return float(((values - self.before) * change).sum()), float(change.square().sum())


@dataclass
class WriteRecord:
    """What was written into one weight."""

    digest: str
    """sha256 over its bytes."""
    dtype: torch.dtype
    """The dtype in which it was written."""
    samples: Samples
    """By which a replaced weight is told from one that only moved."""
    seen: list[tuple[Place, tuple[int, ...]]] = field(default_factory=list)
    """Where it lay when it was last looked at; empty in a copy, whose weights lie elsewhere."""

    def __deepcopy__(self, memo: dict[int, Any]) -> WriteRecord:
        return WriteRecord(self.digest, self.dtype, self.samples)

    def __reduce__(self) -> tuple[Any, ...]:
        return WriteRecord, (self.digest, self.dtype, self.samples)


class FoldedErasure(NamedTuple):
    """One erasure in a network's weights."""

    attachment: Attachment
    paths: set[str]
    """The tensors that it edits."""


@dataclass
class Folds:
    """The erasures in the weights of one network."""

    component: str
    """What the network is called in its pipeline."""
    entries: list[FoldedErasure] = field(default_factory=list)
    """In the order in which they act."""
    written: dict[str, WriteRecord] = field(default_factory=dict)
    """Path of a tensor -> what it should hold."""

    def entry(self, attachment: Attachment) -> FoldedErasure | None:
        """What an attachment does here."""
        return next((entry for entry in self.entries if entry.attachment is attachment), None)

    def value(self, path: str, original: Tensor, without: Attachment | None = None) -> Tensor:
        """What the erasures, or all but one of them, make of a weight (on the CPU, in the dtype of its original)."""
        weight = original
        with own_arithmetic(), torch.no_grad():
            for attachment, paths in self.entries:
                if path in paths and attachment is not without:
                    weight = attachment.erasure.fold(f"{self.component}.{path}", weight, attachment.scale)
        return weight

    def write(self, network: nn.Module, path: str, values: Tensor, places: Iterable[Place] | None = None) -> None:
        """Write a weight, and note what was written."""
        chosen = list(places_of(network, path) if places is None else places)
        for place in chosen:
            place.write(values)
        stored = chosen[0].read().to("cpu", copy=True)
        self.written[path] = WriteRecord(
            digest=sha256_of_tensor(stored),
            dtype=stored.dtype,
            samples=Samples.of(originals_in(network)[path], stored),
            seen=[(place, place.memory()) for place in chosen],
        )


def folds_in(network: nn.Module) -> Folds | None:
    """The erasures in a network's weights; None where there are none."""
    return vars(network).get(KEY)


def is_folded(network: nn.Module, attachment: Attachment) -> bool:
    """Whether an attachment is in a network's weights."""
    folds = folds_in(network)
    return folds is not None and folds.entry(attachment) is not None
