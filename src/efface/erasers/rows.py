"""Which rows of the text states an edit speaks of: the one place where prompts become the matrices C, T and R."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from efface.concept import Concept
from efface.errors import EffaceError
from efface.model import Model, require_fit

RowRule = Literal["last", "subject", "all"]
"""`last`: the last subject token alone; `subject`: from it to the end of the padding; `all`: every position."""


def default_anchor(concept: Concept) -> str:
    """ "art" for a style, a blank otherwise (as UCE's and RECE's authors have it)."""
    return "art" if concept.kind == "style" else " "


def concept_rows(model: Model, concept: Concept, rule: RowRule) -> tuple[Tensor, Tensor]:
    """Rows C of a concept's prompts and T of its anchors (rows width), paired position by position.

    Both sequences start at their own last subject token and are cut to equal length.

    Raises:
        EffaceError: a prompt is longer than the tokenizer takes.
    """
    prompts, anchors = concept.prompts(), concept.anchors(default_anchor(concept))
    for prompt in (*prompts, *anchors):
        require_fit(model, prompt)
    sources, targets = model.encode(prompts).states, model.encode(anchors).states
    _require_finite(sources)
    c_rows, t_rows = [], []
    for k, (c, t) in enumerate(zip(sources, targets, strict=True)):
        ends = concept.templates[k].split("{}")[1]
        i, j = (0, 0) if rule == "all" else (subject(model, prompts[k], ends), subject(model, anchors[k], ends))
        count = 1 if rule == "last" else len(c) - max(i, j)
        c_rows.append(c[i : i + count])
        t_rows.append(t[j : j + count])
    return torch.cat(c_rows), torch.cat(t_rows)


def retained_rows(model: Model, prompts: Sequence[str], rule: RowRule, batch: int = 64) -> Iterator[Tensor]:
    """Rows R of retained prompts (rows width), a batch of prompts at a time."""
    for i in range(0, len(prompts), batch):
        text = model.encode(prompts[i : i + batch])
        if rule == "all":
            yield text.states.flatten(0, 1)
        elif rule == "last":
            yield text.states[range(len(text.last)), text.last]
        else:
            yield torch.cat([states[last:] for states, last in zip(text.states, text.last.tolist(), strict=True)])


def subject(model: Model, prompt: str, ending: str) -> int:
    """Position of the last subject token: the one before the template's ending, or the last content token of a prompt
    that does not end so (the begin token of an empty one)."""
    head = prompt[: len(prompt) - len(ending)] if prompt.endswith(ending) else prompt
    return model.token_count(head)  # the begin token shifts counts to indices


def _require_finite(states: Tensor) -> None:
    if not states.isfinite().all():
        raise EffaceError(
            "the text encoder gives values that are not finite: nothing was erased; check the model's weights."
        )
