"""CLIP's text encoder (Radford et al., arXiv 2103.00020) with the names and the arithmetic of transformers' class.

Importing that class takes longer than an erasure; this one is for reading text only, in evaluation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _quick_gelu(states: Tensor) -> Tensor:
    return states * torch.sigmoid(1.702 * states)


ACTIVATIONS = {"quick_gelu": _quick_gelu, "gelu": F.gelu}
"""What a configuration calls an activation -> the activation."""


class Encoded(NamedTuple):
    """What the plain encoder gives."""

    last_hidden_state: Tensor
    """Normalised states of the last layer (batch tokens width)."""
    pooler_output: Tensor
    """Those of each prompt's end token (batch width)."""
    hidden_states: tuple[Tensor, ...]
    """States before and after the last layer (batch tokens width)."""


class Projected(NamedTuple):
    """What the encoder with a projection gives."""

    text_embeds: Tensor
    """Projected state of each prompt's end token (batch width)."""
    last_hidden_state: Tensor
    """Normalised states of the last layer (batch tokens width)."""
    hidden_states: tuple[Tensor, ...]
    """States before and after the last layer (batch tokens width)."""


class ClipText(nn.Module):
    """A causal transformer over tokens.

    Args:
        config: transformers' CLIPTextConfig.
        projected: with a projection of the pooled state, as CLIPTextModelWithProjection has it.
    """

    def __init__(self, config: Any, *, projected: bool):
        super().__init__()
        width = config.hidden_size
        self.config = config
        sizes = {"token_embedding": config.vocab_size, "position_embedding": config.max_position_embeddings}
        # Drawing initial embeddings on the meta device would import half of torch's compiler.
        tables = {name: nn.Embedding.from_pretrained(torch.empty(size, width)) for name, size in sizes.items()}
        self.embeddings = nn.ModuleDict(tables)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.text_projection = nn.Linear(width, config.projection_dim, bias=False) if projected else None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of its weights."""
        return self.final_layer_norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.final_layer_norm.weight.device

    def get_input_embeddings(self) -> nn.Module:
        """The module that looks token embeddings up."""
        return self.embeddings["token_embedding"]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> Encoded | Projected:
        """States of tokens (batch tokens); a mask is not known here, and the last hidden states are always given."""
        places: Any = self.embeddings["position_embedding"]
        positions = places.weight[: input_ids.shape[1]]
        states = self.embeddings["token_embedding"](input_ids) + positions
        before = states
        layers: Any = self.encoder["layers"]
        for layer in layers:
            before, states = states, layer(states)
        last = self.final_layer_norm(states)
        # Configurations from before transformers 4.31 name token 2; the end token then is the largest number.
        end = self.config.eos_token_id
        at = (input_ids if end == 2 else (input_ids == end).int()).argmax(dim=-1)
        pooled = last[torch.arange(len(last), device=last.device), at]
        if self.text_projection is None:
            return Encoded(last_hidden_state=last, pooler_output=pooled, hidden_states=(before, states))
        return Projected(
            text_embeds=self.text_projection(pooled), last_hidden_state=last, hidden_states=(before, states)
        )


class _Layer(nn.Module):
    """Attention to the tokens before, then two linear layers, each behind a norm."""

    def __init__(self, config: Any):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("k_proj", "v_proj", "q_proj", "out_proj")}
        )
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        attended = self._attend(self.layer_norm1(states))
        states = states + self.self_attn["out_proj"](attended)
        return states + self.mlp["fc2"](self.activation(self.mlp["fc1"](self.layer_norm2(states))))

    def _attend(self, states: Tensor) -> Tensor:
        """Attention of every token to itself and those before it (batch tokens width)."""
        batch, tokens, width = states.shape
        parts = (self.self_attn[name](states) for name in ("q_proj", "k_proj", "v_proj"))
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1, scale=(width // self.heads) ** -0.5)
        return attended.transpose(1, 2).reshape(batch, tokens, width)
