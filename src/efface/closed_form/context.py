"""MACE's two closed forms: keys and values forget a concept in what stands around it, and several changes become one
(Lu et al., CVPR 2024, arXiv 2403.06135)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.maps import LowRankMap
from efface.closed_form.prior import build_prior, cached_prior
from efface.closed_form.ridge import RowPairs, cholesky, gram_of
from efface.closed_form.rows import paired_texts, retained_rows, text_width
from efface.concepts.concept import Concept, default_anchor
from efface.concepts.sentences import in_sentences
from efface.models.model import Model
from efface.models.precision import on_cpu


class ContextForms(NamedTuple):
    """What both closed forms stand on, in float64."""

    map: LowRankMap
    """M of the first: W' = W M."""
    grams: list[Tensor]
    """Gᵢ = Σ e eᵀ over every position of each concept's sentences (width width)."""
    kept: Tensor
    """R = Σ r rᵀ over what is retained, weighted (width width)."""
    ridge: float
    """λ."""


def context_forms(
    model: Model, concepts: Sequence[Concept], *, ridge: float, prior: float, keep: Sequence[str], keep_weight: float
) -> ContextForms:
    """M = (λI + Σ e_a e_cᵀ + R)(λI + Σ e_c e_cᵀ + R)⁻¹ over what stands around the concepts.

    Args:
        model: whose text states enter keys and values as they come.
        concepts: what is erased; those with no templates of their own in efface's sentences.
        ridge: λ.
        prior: s, weight of a row of the model's prior, in both forms once.
        keep: retained prompts.
        keep_weight: weight of one of their rows.

    Raises:
        EffaceError: the system is singular (no ridge and too little that is retained).
    """
    spoken = [_spoken(model, concept) for concept in concepts]
    width = text_width(model)
    kept = keep_weight * gram_of(retained_rows(model, keep, "all"), width)
    if prior:
        words = cached_prior(model) or build_prior(model)
        kept = kept + prior * gram_of(words.states(concepts).split(4096), width)
    pairs = RowPairs.gather(pair for concept in spoken for pair in context_rows(model, concept))
    edit = pairs.edit(kept, erase=1.0, preserve=1.0, ridge=ridge)
    grams = [gram_of(retained_rows(model, concept.prompts(), "all"), width) for concept in spoken]
    return ContextForms(map=edit, grams=grams, kept=kept, ridge=ridge)


def context_rows(model: Model, concept: Concept) -> list[tuple[Tensor, Tensor]]:
    """Rows (rows width) of a concept's prompts and of its anchors at the positions around the name, one pair a prompt and span:
    the tokens that both begin and end with, and what follows them, where a causal encoder leaves what it read of the name.

    Raises:
        EffaceError: a prompt is longer than the tokenizer takes.
    """
    prompts, anchors, sources, targets, c, a = paired_texts(model, concept)
    pairs = []
    for k, (prompt, anchor) in enumerate(zip(prompts, anchors, strict=True)):
        for span in model.token_spans():
            ids, others = span.ids(prompt), span.ids(anchor)
            head = _common(ids, others)
            tail = min(_common(ids[::-1], others[::-1]), len(ids) - head, len(others) - head)
            begin = span.start + span.begin
            after = [begin + len(tokens) - tail for tokens in (ids, others)]
            ends = [span.start + model.attended_positions(text, span, k) for text in (sources, targets)]
            count = max(0, min(end - start for end, start in zip(ends, after, strict=True)))
            rows = [
                torch.cat([states[k, span.start : begin + head], states[k, start : start + count]])
                for states, start in zip((c, a), after, strict=True)
            ]
            pairs.append((rows[0], rows[1]))
    return pairs


def fused(weight: Tensor, forms: ContextForms, factors: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """W* − W (out width) in float64, with W* = (Σᵢ (W' + Δᵢ) Gᵢ + λ W' + W R)(Σᵢ Gᵢ + λI + R)⁻¹.

    Args:
        weight: W (out width).
        forms: the concepts' closed forms.
        factors: of each concept's Δᵢ, (out rank) and (rank width); a concept without any yet is left at W'.

    Raises:
        EffaceError: the system is singular.
    """
    system = sum(forms.grams, forms.kept + forms.ridge * torch.eye(len(forms.kept), dtype=torch.float64))
    factor = cholesky(system, "the last closed form of mace: give a ridge or a prior above 0")
    goal = on_cpu(weight) @ forms.map.u @ (forms.map.v.T @ (system - forms.kept))
    for gram, (up, down) in zip(forms.grams, factors, strict=False):
        goal = goal + on_cpu(up) @ (on_cpu(down) @ gram)
    return torch.cholesky_solve(goal.T, factor).T


def _spoken(model: Model, concept: Concept) -> Concept:
    """A concept in efface's sentences as far as the model reads them; one with templates of its own stays as it is."""
    said = in_sentences(concept)
    if said is concept:
        return concept
    longest = max(concept.name, concept.anchor or default_anchor(concept), key=model.token_count)
    fitting = [t for t in said.templates if not model.truncated(t.replace("{}", longest))]
    return replace(said, templates=tuple(fitting) or concept.templates)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))
