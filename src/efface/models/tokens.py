"""Prompts given as tokens, for attacks that search them: framed as tokenizers do, encoded with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.families import Family
from efface.families.embedding import replace_embeddings
from efface.families.text import Text


def encode_tokens(
    family: Family, content: Sequence[Sequence[int]], embeddings: Tensor | None = None, *, padded: bool = True
) -> Text:
    """Encode prompts given as content tokens, with gradients to their embeddings; arguments as of `Model.encode_tokens`.

    Raises:
        EffaceError: a prompt has more tokens than the model reads.
    """
    ids = framed(family, content, padded=padded)
    lengths = torch.tensor([len(row) for row in content])
    mask = torch.arange(ids[0].shape[1]) <= lengths[:, None] + 1
    encoders = list(family.text_encoders().values())
    with nullcontext() if embeddings is None else replace_embeddings(encoders, embeddings, lengths):
        states, pooled = family.encode(ids, [mask.long()] * len(ids))
    truncated = ("",) * len(content)
    return Text(states=states, pooled=pooled, mask=mask, last=lengths, truncated=truncated)


def framed(family: Family, content: Sequence[Sequence[int]], *, padded: bool = True) -> list[Tensor]:
    """Token ids for each tokenizer (batch tokens): begin, the content tokens of a prompt, end, padding.

    `padded` is to the length that the model reads; else to that of the longest prompt.

    Raises:
        EffaceError: a prompt has more tokens than the model reads.
    """
    most = min(span.max_tokens for span in family.token_spans())
    longest = max(map(len, content), default=0)
    length = (most if padded else longest) + 2  # begin and end
    if longest > most:
        raise EffaceError(f"a prompt of {longest} tokens was given; expected at most the {most} the model reads.")
    ids = []
    for tokenizer in family.tokenizers():
        rows = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in content]
        padding = tokenizer.pad_token_id
        ids.append(torch.tensor([row + [padding] * (length - len(row)) for row in rows]))
    return ids
