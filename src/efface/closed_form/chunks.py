"""Rows of a concept in sentences, with targets that are the mean of several anchors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.blocks import Block, compress
from efface.closed_form.rows import require_fit, subject
from efface.concepts.concept import Concept, default_anchor
from efface.concepts.sentences import in_second_place, in_sentences
from efface.errors import EffaceError
from efface.models.model import Model, Text
from efface.models.neighbours import beside


class Chunk(NamedTuple):
    """Rows of one prompt in one span, from the last subject token on, and their targets."""

    c: Tensor
    """(rows width), the first of them at the last subject token."""
    t: Tensor
    """(rows width), paired position by position."""
    span: int
    """Index of the span of tokens."""


class Naming(NamedTuple):
    """One way to name a concept: a name or alias, in the usual place of a sentence or in another."""

    name: str
    second: bool
    """Whether the name stands in another place."""
    chunks: list[Chunk]
    pooled: tuple[Tensor, Tensor] | None = None
    """Pooled text of every prompt and what takes its place (each prompts width); None where the model has none."""


def anchors_for(model: Model, concept: Concept, erased: Sequence[Concept], count: int) -> list[str]:
    """Names whose mean takes a concept's place: the user's anchor, else the nearest neighbours that stay.

    Args:
        model: orders the neighbours.
        concept: what is erased.
        erased: all that is erased together.
        count: how many neighbours; with 0, or where none are known, the method's default anchor.
    """
    if concept.anchor is not None or concept.neutral:
        return []
    bare = replace(concept, templates=("{}",))
    return beside(model, bare, erased, count) if count and concept.kind in ("object", "style", "person") else []


def namings(model: Model, concept: Concept, anchors: Sequence[str], aliases: bool) -> Iterator[Naming]:
    """A concept's rows by name and place.

    Args:
        model: encodes the prompts.
        concept: as the user gave it.
        anchors: of `anchors_for`.
        aliases: whether its aliases are erased with it.

    Raises:
        EffaceError: a prompt is too long, or the text encoder gives values that are not finite.
    """
    for name in (concept.name, *(concept.aliases if aliases else ())):
        named = replace(concept, name=name)
        for second, form in ((False, in_sentences(named)), (True, in_second_place(named))):
            fitting = form if form is named else _fitting(model, form, anchors)
            if fitting is not None:
                encoded = _encode(model, fitting, anchors)
                chunks = _chunks(model, fitting, encoded)
                yield Naming(name=name, second=second, chunks=chunks, pooled=_pooled(encoded))


def _fitting(model: Model, concept: Concept | None, anchors: Sequence[str]) -> Concept | None:
    """A concept in those of efface's own sentences that the model can read whole, always in the bare name; None for none."""
    if concept is None:
        return None
    names = (concept.name, *anchors, default_anchor(concept))
    fits = [t for t in concept.templates if not any(model.truncated(t.replace("{}", name)) for name in names)]
    templates = (*(t for t in concept.templates if t == "{}" and t not in fits), *fits)
    return replace(concept, templates=templates) if templates else None


class _Encodings(NamedTuple):
    """A concept's prompts and those of what takes its place."""

    source: _Encoded
    targets: list[_Encoded]
    """One for each anchor, prompt by prompt."""


def _encode(model: Model, concept: Concept, anchors: Sequence[str]) -> _Encodings:
    """Encode all prompts of a concept; raises EffaceError for one that is too long."""
    prompts = concept.prompts()
    anchored = [concept.prompts(anchor) for anchor in anchors] or [concept.anchors(default_anchor(concept))]
    for prompt in (*prompts, *(p for group in anchored for p in group)):
        require_fit(model, prompt)
    return _Encodings(source=_encoded(model, prompts), targets=[_encoded(model, group) for group in anchored])


def _pooled(encoded: _Encodings) -> tuple[Tensor, Tensor] | None:
    """Pooled text of the prompts, and the mean of that of their anchors."""
    vectors = [e.text.pooled for e in (encoded.source, *encoded.targets)]
    present = [v.detach().float().cpu() for v in vectors if v is not None]
    return (present[0], torch.stack(present[1:]).mean(0)) if len(present) == len(vectors) else None


def _chunks(model: Model, concept: Concept, encoded: _Encodings) -> list[Chunk]:
    """The rows of every prompt of a concept."""
    found: list[Chunk] = []
    for k, template in enumerate(concept.templates):
        ending = template.split("{}")[1]
        for number, span in enumerate(model.token_spans()):
            texts = (encoded.source, *encoded.targets)
            first = [subject(span, e.prompts[k], ending) for e in texts]
            read = min(model.attended_positions(e.text, span, k) for e in texts)
            count = max(0, read - max(first))
            parts = [e.states[k, span.start + i : span.start + i + count] for e, i in zip(texts, first, strict=True)]
            if count:
                found.append(Chunk(c=parts[0], t=torch.stack(parts[1:]).mean(0), span=number))
    return found


class _Encoded(NamedTuple):
    """Prompts with the states that the projections read."""

    prompts: Sequence[str]
    text: Text
    states: Tensor


def _encoded(model: Model, prompts: Sequence[str]) -> _Encoded:
    text = model.encode(prompts)
    states = model.projection_inputs(text).detach().float().cpu()
    if not states.isfinite().all():
        raise EffaceError(
            "the text encoder gives values that are not finite: nothing was erased; check the model's weights."
        )
    return _Encoded(prompts, text, states)


def block_of(chunks: Iterable[Chunk]) -> Block:
    """A concept's rows as a block of energy 1: rows count as unit vectors, and each concept once, whatever its prompts."""
    chunks = list(chunks)
    c = torch.cat([chunk.c for chunk in chunks]).double()
    t = torch.cat([chunk.t for chunk in chunks]).double()
    scale = c.norm(dim=1, keepdim=True).clamp(min=torch.finfo(c.dtype).tiny) * len(c) ** 0.5
    return compress(c / scale, t / scale)
