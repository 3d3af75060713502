"""Concept steerers: a direction of a text encoder's autoencoder is added to every prompt's states (Kim et al., arXiv 2501.19066)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from efface.erasures.layer_read import LayerRead
from efface.errors import EffaceError
from efface.families.embedding import REPLACED
from efface.families.networks import Hook
from efface.models.caller import encoding_at_work, is_aside, is_negative_text
from efface.models.model import Model

VECTOR = "vector"
"""Name of the direction in a file."""


@dataclass(frozen=True)
class Steer:
    """h ← h + λ r at one layer of a text encoder, and h − λ r for the negative prompt; r is stored (tokens width), or (1 width)
    for every position."""

    phrases: tuple[str, ...]
    """Texts by which the direction was found."""
    layer: str
    """Path of the layer, such as `text_encoder.encoder.layers.1`."""
    strength: float
    """λ; negative to leave the concept."""

    def require(self, model: Model) -> None:
        """Raise EffaceError where a model has no such layer."""
        self._layer(model)

    def _layer(self, model: Model) -> tuple[nn.Module, nn.Module]:
        """The text encoder and the layer."""
        component, _, path = self.layer.partition(".")
        encoder = model.family.text_encoders().get(component)
        try:
            layer = None if encoder is None else encoder.get_submodule(path)
        except AttributeError:
            layer = None
        if encoder is None or layer is None:
            raise EffaceError(
                f"the model has no layer {self.layer}, which the guard steers: was it made for another model?"
            )
        return encoder, layer

    def hooks(self, model: Model, scale: float, vectors: Mapping[str, Tensor]) -> list[Hook]:
        """The hook on the layer, and one that reads which text it is; none at a scale of 0.

        Raises:
            EffaceError: there is no such layer.
        """
        encoder, layer = self._layer(model)
        if scale * self.strength == 0:
            return []
        sign, read = Sign(), LayerRead.of(model.family.text_encoders(), self.layer)
        steering = SteerHook(sign, scale * self.strength * vectors[VECTOR], read)
        return [Hook(encoder, sign, before=True), Hook(layer, steering, before=False, first=True)]


class Sign:
    """A hook before a text encoder that tells prompts from negative prompts: by where in a call they are read, since two texts may be
    alike, and pipelines change them before they are read."""

    def __init__(self) -> None:
        self.value = 1.0

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        call = encoding_at_work()
        if is_aside() or REPLACED.get():
            self.value = 1.0
        elif is_negative_text():
            self.value = -1.0
        else:
            self.value = -1.0 if call is not None and call.is_negative(self) else 1.0


class SteerHook:
    """A hook on a layer that adds the direction."""

    def __init__(self, sign: Sign, vector: Tensor, read: LayerRead):
        self.sign = sign
        self.vector = vector
        self.read = read

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if is_aside():
            return None
        self.read.require()
        hidden = output[0] if isinstance(output, tuple) else output
        vector = self.vector.to(hidden)
        if len(vector) > 1:
            if hidden.shape[1] > len(vector):
                raise EffaceError(
                    f"the text has {hidden.shape[1]} positions where the guard's direction has {len(vector)}: was it made for "
                    "another model?"
                )
            vector = vector[: hidden.shape[1]]
        new = hidden + self.sign.value * vector
        return (new, *output[1:]) if isinstance(output, tuple) else new
