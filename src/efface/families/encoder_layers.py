"""Layers of text encoders, by the names that CLIP, T5, BERT and decoder-only language models give them."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

_OUTPUT = re.compile(
    r"((?:^|\.)(?:layers|block|layer)\.\d+\.)(?:.*\.)?(?:self_attn\.(?:out_proj|o_proj)|SelfAttention\.o|attention\.output\.dense)$"
)
"""Path of the output projection of a layer's attention in CLIP, Gemma and Qwen, T5, BERT; the first group ends at its layer."""
DEPTH = 0.75
"""Share of an encoder's layers that the usual site has behind it: the ninth of CLIP's twelve, as ItD reads (arXiv 2503.09446)."""


class AttentionOutput(NamedTuple):
    """The output projection of the attention of one layer of a text encoder."""

    layer: str
    """Path of the layer, its last dot included."""
    path: str
    """Path of the projection."""
    module: nn.Module
    """The projection."""


def attention_outputs(encoder: nn.Module) -> list[AttentionOutput]:
    """Those of every layer, in order; none for an encoder whose layers are named otherwise."""
    found = []
    for path, module in encoder.named_modules():
        match = _OUTPUT.search(path)
        if match and "visual" not in path and "vision" not in path:
            found.append(AttentionOutput(path[: match.end(1)], path, module))
    return found


def layer_paths(encoder: nn.Module) -> list[str]:
    """Paths of an encoder's layers, in order; none where they are named otherwise."""
    return list(dict.fromkeys(output.layer.removesuffix(".") for output in attention_outputs(encoder)))


def usual_layer(encoder: nn.Module) -> str | None:
    """Path of the layer that autoencoders read by default; None where layers are named otherwise."""
    paths = layer_paths(encoder)
    return paths[max(0, int(DEPTH * len(paths)) - 1)] if paths else None
