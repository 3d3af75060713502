"""TextMap: a linear map of the text states, M = I + U Vᵀ, kept as factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasures.checks import check_text_map
from efface.erasures.erasure import Erasure
from efface.erasures.provenance import Provenance
from efface.families.networks import Hook
from efface.models.model import Model
from efface.models.precision import finite_float32, on_cpu, widen, without_autocast


@dataclass(frozen=True, eq=False)
class TextMap(Erasure):
    """Text states c become c + s U Vᵀ c before every key and value matrix; s is the scale it is attached with.

    With the "replace" target, UCE and RECE edit every matrix W to W M with this one M.
    """

    u: Tensor
    """Left factor (width rank)."""
    v: Tensor
    """Right factor (width rank)."""

    kind = "textmap"
    acts_on = "text"

    @classmethod
    def of(cls, origin: Provenance, u: Tensor, v: Tensor) -> TextMap:
        """The map with these factors in float32, so that what is saved is what was attached.

        Raises:
            EffaceError: they are not finite.
        """
        return cls(origin, finite_float32(u), finite_float32(v))

    @property
    def width(self) -> int:
        """Width of the text states."""
        return len(self.u)

    def map(self, states: Tensor, scale: float = 1.0) -> Tensor:
        """Mapped text states (… width), in their own dtype and on their own device."""
        # float32 also for half-precision models: the two factors may be large where their product is not.
        with without_autocast(states.device):
            wide = states.float()
            u, v = self.u.to(wide), self.v.to(wide)
            return (wide + scale * (wide @ v) @ u.T).to(states.dtype)

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """Map the text states on their way into every network that reads them."""

        def change(states: Tensor) -> Tensor:
            return self.map(states, scale)

        return [text.hook(change) for network in model.networks() for text in network.text_inputs]

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """W M in float64, cast back; `weight` (out width) is any key or value matrix."""
        wide = widen(weight)
        u, v = self.u.to(wide), self.v.to(wide)
        return torch.addmm(wide, wide @ u, v.T, alpha=scale).to(weight.dtype)

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """ΔW = (s W U) Vᵀ."""
        wide = on_cpu(weight)
        return scale * wide @ self.u.to(wide), self.v.to(wide)

    def tensors(self) -> dict[str, Tensor]:
        return {"u": self.u, "v": self.v}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        check_text_map(tensors, width)

    def targets(self) -> None:
        """Every text projection: the map names no weights of its own."""
        return None

    @property
    def matrix(self) -> Tensor:
        """M as a dense float64 matrix (width width), for small widths and tests."""
        return torch.eye(len(self.u), dtype=torch.float64) + self.u.double() @ self.v.double().T
