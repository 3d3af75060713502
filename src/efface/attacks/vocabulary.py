"""The tokens that a search may use, and whether what it finds can be typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from efface.concepts.concept import Concept, own_words
from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from efface.models.neighbours import same_stem
from efface.training.search import tokens_of

__all__ = ["Which", "Words", "retokenizes", "spelled", "tokens_of", "words"]

Which = Literal["words", "all"]
"""`words`: tokens that stand for a whole word and can be typed; `all`: pieces of words too, as published."""


class Words(NamedTuple):
    """Candidate tokens."""

    ids: Tensor
    """(words,)"""
    table: Tensor
    """Their embeddings (words width)."""

    def nearest(self, vectors: Tensor) -> Tensor:
        """Which of the words each vector (… width) points to most nearly, by cosine (…)."""
        unit = torch.nn.functional.normalize
        return (unit(vectors, dim=-1) @ unit(self.table, dim=-1).T).argmax(-1)


def words(model: Model, concept: Concept, which: Which) -> Words:
    """The candidates of a search: no special token, nothing that names the concept, its aliases, or shares their stems.

    Raises:
        EffaceError: the model's tokenizers do not share one vocabulary.
    """
    first, *others = model.family.tokenizers()
    vocabulary = first.get_vocab()
    if any(other.get_vocab() != vocabulary for other in others):
        raise EffaceError("the model's tokenizers know different tokens; expected one vocabulary for all of them.")
    table = model.token_table().float()
    special = {token for tokenizer in (first, *others) for token in tokenizer.all_special_ids}
    ids = [i for i in sorted(vocabulary.values()) if i not in special and i < len(table)]
    texts = dict(zip(ids, (text.strip() for text in first.batch_decode([[i] for i in ids])), strict=True))
    if which == "words":
        typed = first([texts[i] for i in ids], add_special_tokens=False).input_ids
        ids = [i for i, tokens in zip(ids, typed, strict=True) if list(tokens) == [i] and texts[i].isprintable()]
    names = own_words(concept)
    kept = torch.tensor([i for i in ids if not any(_speaks_of(texts[i].lower(), name) for name in names)])
    if not len(kept):
        raise UsageError(f"no token is left to search among for {concept.name!r}: the tokenizer knows no other word.")
    return Words(kept, table[kept.to(table.device)])


def _speaks_of(text: str, name: str) -> bool:
    """Whether a token is a word of the concept's, or most of one."""
    if not text or len(text) < 3:
        return text == name
    return same_stem(text, name) or ((text in name or name in text) and abs(len(text) - len(name)) <= 3)


def spelled(model: Model, ids: Sequence[int]) -> str:
    """Content tokens as text."""
    return model.family.tokenizers()[0].decode(list(ids)).strip()


def retokenizes(model: Model, ids: Sequence[int]) -> bool:
    """Whether the text of these tokens gives the same tokens when it is typed."""
    return tokens_of(model, spelled(model, ids)) == list(ids)
