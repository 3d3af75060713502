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


def concept_rows(model: Model, concept: Concept, default_anchor: str, rule: RowRule) -> tuple[Tensor, Tensor]:
    """Rows C of a concept's prompts and T of its anchors (rows width), paired position by position.

    Both sequences start at their own last subject token and are cut to equal length.

    Raises:
        EffaceError: a prompt is longer than the tokenizer takes.
    """
    prompts, anchors = concept.prompts(), concept.anchors(default_anchor)
    for prompt in (*prompts, *anchors):
        require_fit(model, prompt)
    sources, targets = model.encode(prompts).states, model.encode(anchors).states
    _require_finite(sources)
    starts = _subject_positions(model, concept.templates, [concept.name] * len(prompts))
    fillers = [_filler(template, anchor) for template, anchor in zip(concept.templates, anchors, strict=True)]
    anchor_starts = _subject_positions(model, concept.templates, fillers, anchors)
    c_rows, t_rows = [], []
    for c, t, i, j in zip(sources, targets, starts, anchor_starts, strict=True):
        if rule == "all":
            i = j = 0
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


def _filler(template: str, anchor: str) -> str | None:
    """What an anchor prompt has where its template has the name; None when it is not of the template."""
    before, after = template.split("{}")
    if anchor.startswith(before) and anchor.endswith(after) and len(anchor) > len(before) + len(after):
        return anchor[len(before) : len(anchor) - len(after)]
    return None


def _subject_positions(
    model: Model, templates: Sequence[str], names: Sequence[str | None], prompts: Sequence[str] = ()
) -> list[int]:
    """Position of the last token of each name within its template; of the prompt's last content token without a name."""
    positions = []
    for k, (template, name) in enumerate(zip(templates, names, strict=True)):
        text = prompts[k] if name is None else template.split("{}")[0] + name
        positions.append(model.token_count(text))  # the begin token shifts counts to indices
    return positions


def _require_finite(states: Tensor) -> None:
    if not states.isfinite().all():
        raise EffaceError(
            "the text encoder gives values that are not finite: nothing was erased; check the model's weights."
        )
