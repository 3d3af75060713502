"""Rows of text states: the one place where prompts become the matrices C, T and R."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from efface.closed_form.ridge import gram_of
from efface.concepts.concept import Concept, default_anchor
from efface.errors import EffaceError
from efface.families.text import Text, TokenSpan
from efface.models.model import Model

RowRule = Literal["last", "subject", "all"]
"""`last`: the last subject token alone; `subject`: from it to the end of the padding; `all`: every position."""


class PairedTexts(NamedTuple):
    """A concept's prompts and, in the same order, those of its anchor."""

    prompts: list[str]
    anchors: list[str]
    sources: Text
    """The prompts, encoded in float32."""
    targets: Text
    """The anchors, likewise."""
    c: Tensor
    """States of the prompts as the projections read them (prompts tokens width)."""
    t: Tensor
    """Those of the anchors."""


def paired_texts(model: Model, concept: Concept) -> PairedTexts:
    """A concept's prompts and anchors, encoded.

    Raises:
        EffaceError: a prompt is longer than the tokenizer takes, or the states are not finite.
    """
    prompts, anchors = concept.prompts(), concept.anchors(default_anchor(concept))
    for prompt in (*prompts, *anchors):
        require_fit(model, prompt)
    sources, targets = model.encode_in_float32(prompts), model.encode_in_float32(anchors)
    c, t = model.projection_inputs(sources), model.projection_inputs(targets)
    _require_finite(c)
    return PairedTexts(prompts=prompts, anchors=anchors, sources=sources, targets=targets, c=c, t=t)


def concept_rows(model: Model, concept: Concept, rule: RowRule) -> tuple[Tensor, Tensor]:
    """Rows C of a concept's prompts and T of its anchors (rows width), paired position by position.

    In every span both sequences start at their own last subject token and are cut to equal length; positions that the
    denoiser does not attend to are left out.

    Raises:
        EffaceError: a prompt is longer than the tokenizer takes.
    """
    prompts, anchors, sources, targets, c_states, t_states = paired_texts(model, concept)
    c_rows: list[Tensor] = []
    t_rows: list[Tensor] = []
    spans = model.token_spans()
    for k, (prompt, anchor) in enumerate(zip(prompts, anchors, strict=True)):
        ends = concept.templates[k].split("{}")[1]
        for span in spans:
            i, j = (0, 0) if rule == "all" else (subject(span, prompt, ends), subject(span, anchor, ends))
            read = min(model.attended_positions(sources, span, k), model.attended_positions(targets, span, k))
            count = 1 if rule == "last" else max(0, read - max(i, j))
            c_rows.append(c_states[k, span.start + i : span.start + i + count])
            t_rows.append(t_states[k, span.start + j : span.start + j + count])
    return torch.cat(c_rows), torch.cat(t_rows)


def retained_rows(model: Model, prompts: Sequence[str], rule: RowRule, batch: int = 64) -> Iterator[Tensor]:
    """Rows R of retained prompts (rows width), a batch of prompts at a time."""
    spans = model.token_spans()
    for i in range(0, len(prompts), batch):
        chunk = prompts[i : i + batch]
        text = model.encode_in_float32(chunk)
        states, rows = model.projection_inputs(text), []
        for k, prompt in enumerate(chunk):
            for span in spans:
                first = 0 if rule == "all" else span.position(prompt)
                end = first + 1 if rule == "last" else model.attended_positions(text, span, k)
                rows.append(states[k, span.start + first : span.start + end])
        yield torch.cat(rows)


def subject(span: TokenSpan, prompt: str, ending: str) -> int:
    """Position in a span of the last subject token: the one before the template's ending, or the last content token of
    a prompt that does not end so (the begin token of an empty one)."""
    return span.position(prompt[: len(prompt) - len(ending)] if prompt.endswith(ending) else prompt, prompt)


def _require_finite(states: Tensor) -> None:
    if not states.isfinite().all():
        raise EffaceError(
            "the text encoder gives values that are not finite: nothing was erased; check the model's weights."
        )


def text_width(model: Model) -> int:
    """Width of the text states that enter the key and value projections."""
    return model.text_projections()[0].width


def with_aliases(concepts: Sequence[Concept], aliases: bool) -> list[Concept]:
    """The concepts; with `aliases`, followed by one more for each of their aliases."""
    others = [replace(c, name=alias, aliases=()) for c in concepts for alias in c.aliases] if aliases else []
    return [*concepts, *others]


class RetainedGrams(NamedTuple):
    """RᵀR of what is retained (each width width)."""

    first: Tensor
    """In the UCE stage."""
    epochs: Tensor
    """In RECE's epochs."""


def retained_grams(
    model: Model, neutral: str, keep: Sequence[str], rule: RowRule, counts: tuple[int, int]
) -> RetainedGrams:
    """The neutral prompt, as often as it counts in the UCE stage and in the epochs, and the prompts of `keep`."""
    width = text_width(model)
    empty = gram_of(retained_rows(model, [neutral], rule), width)
    kept = gram_of(retained_rows(model, keep, rule), width)
    first, epochs = counts
    return RetainedGrams(first=first * empty + kept, epochs=epochs * empty + kept)


def require_fit(model: Model, prompt: str) -> None:
    """Raise EffaceError when the tokenizer would cut `prompt`."""
    rest = model.truncated(prompt)
    if rest:
        raise EffaceError(
            f"the prompt {prompt[:60]!r} is longer than the {model.max_tokens} tokens the model reads: {rest!r} would be cut; "
            "shorten the concept."
        )
