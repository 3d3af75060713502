"""TextMap: a linear map of the text states, M = I + U Vᵀ, kept as factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.erasures.base import Erasure
from efface.errors import EffaceError
from efface.model import Model


@dataclass(frozen=True, eq=False)
class TextMap(Erasure):
    """Text states c become c + s U Vᵀ c before every key and value matrix; s is the scale it is attached with.

    With the "replace" target, UCE and RECE edit every matrix W to W M with this one M.
    """

    u: Tensor
    """(width rank)"""
    v: Tensor
    """(width rank)"""

    kind = "textmap"
    acts_on = "text"

    def map(self, states: Tensor, scale: float = 1.0) -> Tensor:
        """Mapped text states (batch tokens width), in their own dtype and on their own device."""
        # float32 also for half-precision models: the two factors may be large where their product is not.
        wide = states.float()
        u, v = self.u.to(wide), self.v.to(wide)
        return (wide + scale * (wide @ v) @ u.T).to(states.dtype)

    def hooks(self, model: Model, scale: float) -> list[Any]:
        """Map the text states on their way into every network that reads them."""

        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            # Every UNet and ControlNet of diffusers takes (sample, timestep, encoder_hidden_states).
            states = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
            text, *images = states if isinstance(states, tuple) else (states,)  # IP-Adapter may pass (text, images)
            text = self.map(text, scale)
            states = (text, *images) if images else text
            if "encoder_hidden_states" in kwargs:
                return args, kwargs | {"encoder_hidden_states": states}
            return (*args[:2], states, *args[3:]), kwargs

        return [entry.module.register_forward_pre_hook(hook, with_kwargs=True) for entry in model.entries()]

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """W M in float32 or better, cast back; `weight` (out width) is any key or value matrix."""
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        u, v = self.u.to(wide), self.v.to(wide)
        return torch.addmm(wide, wide @ u, v.T, alpha=scale).to(weight.dtype)

    def tensors(self) -> dict[str, Tensor]:
        return {"u": self.u, "v": self.v}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        u, v = tensors.get("u"), tensors.get("v")
        if u is None or v is None or set(tensors) != {"u", "v"} or u.ndim != 2 or u.shape != v.shape or len(u) != width:
            found = {k: tuple(t.shape) for k, t in tensors.items()}
            raise EffaceError(
                f"the text map holds {found}; expected u and v of shape ({width}, rank): make the erasure again."
            )

    def targets(self) -> None:
        """Every text projection: the map names no weights of its own."""
        return None

    @property
    def matrix(self) -> Tensor:
        """M as a dense float64 matrix (width width), for small widths and tests."""
        return torch.eye(len(self.u), dtype=torch.float64) + self.u.double() @ self.v.double().T
