"""WeightDelta: named tensors added to weights, dense or low rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from efface.erasures.beside import hooks_beside
from efface.erasures.checks import check_delta
from efface.erasures.erasure import Erasure
from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.precision import finite_float32, on_cpu, widen
from efface.models.spelling import one_name, spelt_as


@dataclass(frozen=True, eq=False)
class WeightDelta(Erasure):
    """Weights W become W + s Δ, where Δ is dense or a product `up @ down`.

    Tensors are named by component and parameter, for example `unet.mid_block…attn2.to_k.weight`; a low-rank one is
    two tensors, `NAME.up` (out rank) and `NAME.down` (rank in).
    """

    deltas: dict[str, Tensor]
    """Tensor name -> values, as above."""

    kind = "delta"
    acts_on = "weights"

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """W + s Δ, computed in float64 and cast back."""
        wide, name = widen(weight), self._own_name(name)
        if name in self.deltas:
            change = self.deltas[name].to(wide)
        else:
            change = self.deltas[f"{name}.up"].to(wide) @ self.deltas[f"{name}.down"].to(wide)
        if change.numel() != wide.numel():
            raise EffaceError(
                f"the erasure's change of {name} has shape {tuple(change.shape)} where the weight has {tuple(wide.shape)}: "
                "was it made for another model?"
            )
        return (wide + scale * change.reshape(wide.shape)).to(weight.dtype)

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """The two factors of a low-rank Δ, the scale in the first."""
        name = self._own_name(name)
        if name in self.deltas:
            return None
        return scale * on_cpu(self.deltas[f"{name}.up"]), on_cpu(self.deltas[f"{name}.down"]).T

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """What the factors of each weight add to what its layer gives.

        Raises:
            EffaceError: the change of a weight is dense.
        """
        if dense := [name for name in self.targets() if name in self.deltas]:
            raise EffaceError(
                f"the erasure of {self.names} changes {dense[0]}{' and others' * (len(dense) > 1)} as a whole and not by factors of "
                "low rank, so that it cannot act on single rows of a batch: leave it out of the policies, or give it a pipeline of "
                "its own."
            )
        own = spelt_as(self.targets(), parameters_of(model))
        return [
            hook
            for name, path in own.items()
            for hook in hooks_beside(
                model.components(), path, self.deltas[f"{name}.up"], self.deltas[f"{name}.down"], scale
            )
        ]

    def _own_name(self, name: str) -> str:
        """A weight's name as it stands here, where another version of transformers may have spelt it."""
        return self._names.get(one_name(name), name)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {one_name(name): name for name in self.targets()}

    def tensors(self) -> dict[str, Tensor]:
        return self.deltas

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        check_delta(tensors, width)

    def targets(self) -> list[str]:
        """Full names of the weights it changes."""
        return sorted({name.removesuffix(".up").removesuffix(".down") for name in self.deltas})

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> WeightDelta:
        return cls(provenance, tensors)


def weight_delta(origin: Any, deltas: dict[str, Tensor]) -> WeightDelta:
    """A WeightDelta in float32."""
    return WeightDelta(origin, {name: finite_float32(values) for name, values in deltas.items()})
