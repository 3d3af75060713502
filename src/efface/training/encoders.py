"""Text encoders that are trained: their layers, and prompts read with gradients."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import EffaceError, UsageError
from efface.families.encoder_layers import AttentionOutput, attention_outputs
from efface.models.caller import at_work
from efface.models.model import Model, Text
from efface.training.groups import Weight, encoder_weights

_CLIP = re.compile(r"self_attn\.out_proj$")


def trained_encoders(model: Model, named: Sequence[str]) -> list[str]:
    """Names of the text encoders that are to be trained: the named ones, by default CLIP's, or all where there is no CLIP.

    It is said in a warning which others read the prompt too, since the concept may come back through them.

    Raises:
        UsageError: there is no encoder of that name.
        EffaceError: the layers of one are named otherwise than this knows.
    """
    encoders = model.family.text_encoders()
    if unknown := [name for name in named if name not in encoders]:
        raise UsageError(f"there is no text encoder {unknown[0]!r}; expected some of {', '.join(encoders)}.")
    clips = [n for n, e in encoders.items() if any(_CLIP.search(o.path) for o in attention_outputs(e))]
    chosen = list(named) or clips or list(encoders)
    if foreign := [name for name in chosen if not attention_outputs(encoders[name])]:
        kind = type(encoders[foreign[0]]).__name__
        raise EffaceError(
            f"the layers of {foreign[0]} ({kind}) are not known: choose a method that trains the denoiser."
        )
    if left := [name for name in encoders if name not in chosen]:
        warnings.warn(
            f"{' and '.join(chosen)} will be trained; {' and '.join(left)} read{'s' * (len(left) == 1)} the prompt too and "
            f"stay{'s' * (len(left) == 1)} as it was, so that the concept may come back through it.",
            stacklevel=4,
        )
    return chosen


def first_layer(model: Model, component: str) -> list[Weight]:
    """The weights of attention and MLP of a text encoder's first layer; raises EffaceError where they cannot be trained."""
    layer = attention_outputs(model.family.text_encoders()[component])[0].layer
    return encoder_weights(model, component, f"^{re.escape(layer)}(?!.*norm)")


def every_layer(model: Model, component: str) -> list[Weight]:
    """The weights of all layers of a text encoder and of the norm behind them, its embeddings left out; raises EffaceError
    as `first_layer`."""
    layers = {output.layer for output in attention_outputs(model.family.text_encoders()[component])}
    either = "|".join(re.escape(layer) for layer in sorted(layers))
    return encoder_weights(model, component, rf"^({either})|(^|\.)final_layer_norm\.")


def read(model: Model, prompts: Sequence[str]) -> Text:
    """Prompts encoded as `Model.encode` does, with gradients to the text encoders."""
    with at_work(model.pipeline):
        return model.family.text(list(prompts))


def last_read(model: Model, component: str) -> AttentionOutput:
    """The last layer of a text encoder that the model reads anything of: SDXL's states come from before the last one.

    Raises:
        EffaceError: it reads nothing of that encoder's layers.
    """
    outputs = attention_outputs(model.family.text_encoders()[component])
    marks = [torch.zeros((), requires_grad=True) for _ in outputs]
    handles = [
        output.module.register_forward_hook(lambda module, args, out, mark=mark: out + mark.to(out))
        for output, mark in zip(outputs, marks, strict=True)
    ]
    try:
        with torch.enable_grad():
            text = read(model, [""])
    finally:
        for handle in handles:
            handle.remove()
    for states in (text.states, text.pooled):
        if states is not None and states.requires_grad:
            grads = torch.autograd.grad(states.float().sum(), marks, allow_unused=True, retain_graph=True)
            if reached := [o for o, g in zip(outputs, grads, strict=True) if g is not None]:
                return reached[-1]
    raise EffaceError(f"the denoiser reads nothing of the layers of {component}: name another text encoder.")


@contextmanager
def watched(modules: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Context in which the last output of each module is kept, by its index, with gradients."""
    outputs: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[number] = output

        return hook

    handles = [module.register_forward_hook(keep(number)) for number, module in enumerate(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
