"""The negative prompt: what is to be left stands behind the caller's own negative prompt, and guidance leads away from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from efface.erasures.guards.output import OutputRule, Outputs
from efface.erasures.guards.turn import is_distilled
from efface.errors import EffaceError
from efface.models.model import Model


@dataclass(frozen=True)
class NegativePrompt(OutputRule):
    """o_n + g (o_p − o_n) instead of o_u + g (o_p − o_u): γ = (1 − 1/g)(o_n − o_u)."""

    phrases: tuple[str, ...]
    """Texts of what is to be left, read as one."""

    on_negative: ClassVar[bool] = True

    def change(self, outputs: Outputs, memory: dict[str, Any]) -> Tensor | None:
        return (1 - 1 / outputs.weight) * (outputs.concept - outputs.unconditional)

    def require(self, model: Model) -> None:
        if is_distilled(model):
            raise EffaceError(
                "the model was distilled with guidance, draws no unconditional half, and so has no negative prompt: choose another "
                "method, such as sld or uce."
            )
