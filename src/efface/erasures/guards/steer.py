"""Concept steerers: a direction of a text encoder's autoencoder is added to every prompt's states (Kim et al., arXiv 2501.19066)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures.guards.aside import is_aside
from efface.erasures.guards.door import positions_of
from efface.errors import EffaceError
from efface.families.embedding import REPLACED
from efface.families.networks import Hook
from efface.models.caller import call_arguments, is_negative_text
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
        component = self.layer.partition(".")[0]
        sign = Sign(_tokenizer(model, component), any(span.before or span.pads_left for span in model.token_spans()))
        vector = scale * self.strength * vectors[VECTOR]
        return [Hook(encoder, sign, before=True), Hook(layer, SteerHook(sign, vector), before=False, first=True)]


class Sign:
    """A hook before a text encoder that tells prompts from negative prompts, by their text."""

    def __init__(self, tokenizer: Any, templated: bool):
        self.tokenizer = tokenizer
        self.templated = templated
        self.value: Tensor = torch.ones(1)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        ids, arguments = kwargs.get("input_ids", args[0] if args else None), call_arguments()
        if is_negative_text():
            self.value = -torch.ones(1)
        elif arguments is None or not isinstance(ids, Tensor) or REPLACED.get():
            self.value = torch.ones(1)
        else:
            self.value = torch.tensor([1.0 if self._is_prompt(row, arguments) else -1.0 for row in ids.tolist()])

    def _is_prompt(self, row: list[int], arguments: Mapping[str, Any]) -> bool:
        """Whether the ids of a text in the pipeline's own call are of a prompt of it, and not of a negative one."""
        prompts, negatives = (_texts(arguments.get(name)) for name in ("prompt", "negative_prompt"))
        if not self.templated:
            return not any(self._ids(text, len(row)) == row for text in negatives if text not in prompts)
        # At its ends a text may merge with the template.
        runs = [self.tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
        return any(positions_of(row, [run[1:-1] if len(run) > 2 else run]) for run in runs)

    def _ids(self, text: str, length: int) -> list[int]:
        """Token ids of a text padded to a length."""
        found = self.tokenizer(text, padding="max_length", max_length=length, truncation=True)
        return list(found.input_ids)


class SteerHook:
    """A hook on a layer that adds the direction."""

    def __init__(self, sign: Sign, vector: Tensor):
        self.sign = sign
        self.vector = vector

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if is_aside():
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        vector = self.vector.to(hidden)
        if len(vector) > 1:
            if hidden.shape[1] > len(vector):
                raise EffaceError(
                    f"the text has {hidden.shape[1]} positions where the guard's direction has {len(vector)}: was it made for "
                    "another model?"
                )
            vector = vector[: hidden.shape[1]]
        new = hidden + self.sign.value.to(hidden).view(-1, 1, 1) * vector
        return (new, *output[1:]) if isinstance(output, tuple) else new


def _texts(given: Any) -> list[str]:
    """The texts of an argument of a call; the empty one where none was given."""
    return [given or ""] if given is None or isinstance(given, str) else list(given)


def _tokenizer(model: Model, component: str) -> Any:
    """The tokenizer of a text encoder."""
    found = getattr(model.pipeline, component.replace("text_encoder", "tokenizer"))
    return getattr(found, "tokenizer", found)  # a processor may stand around it
