"""TextMap: a linear map of the text states, M = I + U Vᵀ, kept as factors, and one of the pooled text where it has one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasures.checks import check_text_map
from efface.erasures.provenance import Provenance
from efface.erasures.text_erasure import TextErasure
from efface.families.networks import Hook, TextInput
from efface.families.projections import reads_pooled
from efface.models.precision import finite_float32, on_cpu, widen, without_autocast


@dataclass(frozen=True, eq=False)
class TextMap(TextErasure):
    """Text states c become c + s U Vᵀ c before every key and value matrix; s is the scale it is attached with.

    With the "replace" target, UCE and RECE edit every matrix W to W M with this one M. Pooled text, one vector a prompt beside
    the timestep, has a map of its own or passes as it is.
    """

    u: Tensor
    """Left factor (width rank)."""
    v: Tensor
    """Right factor (width rank)."""
    pooled_u: Tensor | None = None
    """Left factor of the map of pooled text (pooled rank); None where that passes as it is."""
    pooled_v: Tensor | None = None
    """Its right factor (pooled rank)."""

    kind = "textmap"

    @classmethod
    def of(cls, origin: Provenance, u: Tensor, v: Tensor, pooled: tuple[Tensor, Tensor] | None = None) -> TextMap:
        """The map with these factors in float32, so that what is saved is what was attached; `pooled` are those of pooled text.

        Raises:
            EffaceError: they are not finite.
        """
        beside = () if pooled is None else (finite_float32(pooled[0]), finite_float32(pooled[1]))
        return cls(origin, finite_float32(u), finite_float32(v), *beside)

    @property
    def width(self) -> int:
        """Width of the text states."""
        return len(self.u)

    def map(self, states: Tensor, scale: float = 1.0) -> Tensor:
        """Mapped text states (… width), in their own dtype and on their own device."""
        return _mapped(states, self.u, self.v, scale)

    def map_pooled(self, vectors: Tensor, scale: float = 1.0) -> Tensor:
        """Mapped pooled text (batch pooled); as it is where the erasure has no map for it."""
        if self.pooled_u is None or self.pooled_v is None:
            return vectors
        return _mapped(vectors, self.pooled_u, self.pooled_v, scale)

    def map_both(self, states: Tensor, vectors: Tensor | None, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Mapped text states (batch tokens width) and pooled text (batch pooled)."""
        return self.map(states, scale), None if vectors is None else self.map_pooled(vectors, scale)

    @property
    def pooled_width(self) -> int | None:
        """Width of the pooled text that it maps; None where it leaves that as it is."""
        return None if self.pooled_u is None else len(self.pooled_u)

    def changes_at(self, text: TextInput, pooled: TextInput | None, scale: float) -> list[Hook]:
        """Map what comes to one call."""

        def change(states: Tensor) -> Tensor:
            return self.map(states, scale)

        def change_pooled(vectors: Tensor) -> Tensor:
            return self.map_pooled(vectors, scale)

        beside = [pooled.hook(change_pooled)] if pooled is not None and self.maps_pooled else []
        return [text.hook(change), *beside]

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """W M in float64, cast back; `weight` (out width) is any key or value matrix, or one whose first columns read pooled
        text."""
        wide = widen(weight)
        u, v = self._of(name, wide)
        return torch.addmm(wide, wide[:, : len(u)] @ u, v.T, alpha=scale).to(weight.dtype)

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """ΔW = (s W U) Vᵀ."""
        wide = on_cpu(weight)
        u, v = self._of(name, wide)
        return scale * wide[:, : len(u)] @ u, v

    def _of(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """U and V for a weight (out in) of that name, V with zeros for columns that read something else (in rank)."""
        u, v = self.u, self.v
        if self.pooled_u is not None and self.pooled_v is not None and reads_pooled(name):
            u, v = self.pooled_u, self.pooled_v
        return u.to(weight), torch.nn.functional.pad(v.to(weight), (0, 0, 0, weight.shape[1] - len(v)))

    def tensors(self) -> dict[str, Tensor]:
        parts = {"u": self.u, "v": self.v, "pooled_u": self.pooled_u, "pooled_v": self.pooled_v}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        check_text_map(tensors, width)

    @property
    def matrix(self) -> Tensor:
        """M as a dense float64 matrix (width width), for small widths and tests."""
        return torch.eye(len(self.u), dtype=torch.float64) + self.u.double() @ self.v.double().T


def _mapped(states: Tensor, u: Tensor, v: Tensor, scale: float) -> Tensor:
    """x + s U Vᵀ x of states x (… width), in their own dtype and on their own device."""
    # float32 also for half-precision models: the two factors may be large where their product is not.
    with without_autocast(states.device):
        wide = states.float()
        return (wide + scale * (wide @ v.to(wide)) @ u.to(wide).T).to(states.dtype)
