"""Token embeddings that replace those of the ids, through a hook on each text encoder's own embedding module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.storage import values_of

REPLACED: ContextVar[bool] = ContextVar("replaced", default=False)
"""Whether the ids that text encoders are given stand for other embeddings than their own."""


def token_table(encoders: Sequence[nn.Module]) -> Tensor:
    """The encoders' token embeddings side by side (vocabulary width); raises EffaceError where vocabularies differ."""
    tables = [values_of(_lookup(encoder), "weight", called="the table of token embeddings") for encoder in encoders]
    sizes = [len(table) for table in tables]
    if len(set(sizes)) > 1:
        raise EffaceError(
            f"the text encoders know {' and '.join(map(str, sizes))} tokens; expected one vocabulary, "
            "since an attack writes one prompt for all of them."
        )
    return torch.cat(tables, dim=1)


@contextmanager
def replace_embeddings(encoders: Sequence[nn.Module], embeddings: Tensor, lengths: Tensor) -> Iterator[None]:
    """While active, the tokens after the begin token have `embeddings` instead of those of their ids.

    Args:
        encoders: in the order of `token_table`.
        embeddings: (batch tokens width), the encoders' own side by side.
        lengths: how many of a row's embeddings count (batch,); the others keep those of their ids.
    """
    widths = [_lookup(encoder).weight.shape[1] for encoder in encoders]
    inside = (torch.arange(embeddings.shape[1]) < lengths[:, None])[..., None].to(embeddings.device)
    handles = []
    for encoder, part in zip(encoders, embeddings.split(widths, dim=-1), strict=True):

        def hook(module: Any, args: Any, output: Tensor, part: Tensor = part) -> Tensor:
            end = 1 + part.shape[1]
            chosen = torch.where(inside.to(output.device), part.to(output), output[:, 1:end])
            return torch.cat([output[:, :1], chosen, output[:, end:]], dim=1)

        handles.append(_lookup(encoder).register_forward_hook(hook))
    token = REPLACED.set(True)
    try:
        yield
    finally:
        REPLACED.reset(token)
        for handle in handles:
            handle.remove()


def _lookup(encoder: Any) -> Any:
    """The module that looks token embeddings up."""
    return encoder.get_input_embeddings()
