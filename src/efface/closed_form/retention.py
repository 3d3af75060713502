"""What an erasure of many concepts retains: words near them, the prior of the text encoder, and what must stay exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.prior import Prior, build_prior, cached_prior
from efface.closed_form.rows import concept_rows, text_width
from efface.closed_form.system import Retention
from efface.concepts.concept import Concept
from efface.erasures import attached_to
from efface.errors import EffaceError
from efface.models.model import Model
from efface.models.precision import on_cpu
from efface.plugins import complain

FEW = 5
"""Concepts up to which a prior is used where it is at hand and never built."""
SHARE = 0.9999
"""Share of the empty prompt's energy that stays exactly, where there is room."""
BATCH = 8192
"""Rows that are summed at a time."""
ROOM = 8
"""An edit may fix one of so many directions."""


class Near(NamedTuple):
    """Retained prompts, encoded."""

    states: Tensor
    """Text states at all positions that the denoiser attends to (rows width), in float16."""
    subjects: Tensor
    """Those at each prompt's last subject token (prompts width), in float64."""
    pooled: Tensor
    """Pooled text (prompts width), in float32; no rows where the model has none."""


class Retained(NamedTuple):
    """What is retained, and what the erasure says of it."""

    retention: Retention
    near: Near
    prior: Prior | None
    earlier: tuple[str, ...]
    """Names of concepts that are erased on the pipeline already, whose rows are retained."""
    before: tuple[str, ...] = ()
    """Prompts of all that an earlier erasure moved and that stays where it put it."""

    def remarks(self) -> list[str]:
        """Sentences for the user."""
        if not self.earlier:
            return []
        names = ", ".join(self.earlier[:6]) + ("…" if len(self.earlier) > 6 else "")
        return [f"erased on the pipeline already, and kept where that put it: {names}."]


def prior_for(model: Model, concepts: int, wanted: str) -> Prior | None:
    """The prior for an erasure of so many concepts: the cached one, or a new one for more than FEW, which is announced.

    Args:
        model: whose text encoder it is of.
        concepts: how many are erased.
        wanted: `auto`, `always` to build it for few concepts too, or `never`.
    """
    if wanted == "never":
        return None
    found = cached_prior(model)
    if found is None and (wanted == "always" or concepts > FEW):
        complain("reading the text encoder's own words, once for this and later erasures (as `efface prior` does) …")
        return build_prior(model)
    return found


def retained(
    model: Model,
    concepts: Sequence[Concept],
    near: Near,
    never_touch: Sequence[str],
    prior: Prior | None,
    ridge: float,
    before: Sequence[Concept] = (),
) -> Retained:
    """What an erasure leaves as it is: the mean of the moments of what is near, of the prior, and of earlier erasures.

    Args:
        model: the model.
        concepts: what is erased; the prior's prompts that name it do not count.
        near: prompts near it.
        never_touch: prompts that stay exactly.
        prior: of the text encoder.
        ridge: λ, in units of the mean eigenvalue of the moment.
        before: concepts that stay where an erasure put them, beside those that are erased on the pipeline.

    Raises:
        EffaceError: so much must stay exactly that there is no room to edit in.
    """
    width = text_width(model)
    attached = [c for attachment in attached_to(model.pipeline) for c in attachment.erasure.provenance.concepts]
    before = [*before, *attached]
    parts = [unit_gram(near.states.split(BATCH), width)] if len(near.states) else []
    parts += [] if prior is None else [prior.gram(concepts)]
    parts += [unit_gram((concept_rows(model, c, "subject")[0] for c in before), width)] if before else []
    gram = torch.stack(parts).mean(0) if parts else torch.zeros(width, width, dtype=torch.float64)
    retention = Retention(gram=gram, ridge=ridge / width, hard=hard_basis(model, never_touch))
    earlier = tuple(dict.fromkeys(c.name for c in attached))
    spoken = tuple(prompt for c in before for prompt in c.prompts())
    return Retained(retention=retention, near=near, prior=prior, earlier=earlier, before=spoken)


def near_rows(model: Model, keep: Sequence[str], batch: int = 64) -> Near:
    """The rows of retained prompts, `batch` prompts at a time."""
    width = text_width(model)
    span = model.token_spans()[0]
    states = [torch.zeros(0, width, dtype=torch.float16)]
    subjects = [torch.zeros(0, width, dtype=torch.float64)]
    pooled = []
    for i in range(0, len(keep), batch):
        chunk = keep[i : i + batch]
        text = model.encode(chunk)
        encoded = model.projection_inputs(text).detach().float().cpu()
        mask = torch.ones_like(text.mask) if model.family.reads_padding else text.mask
        states.append(encoded[mask.cpu()].half())
        last = torch.tensor([span.start + span.position(prompt) for prompt in chunk])
        subjects.append(encoded[torch.arange(len(chunk)), last].double())
        pooled += [] if text.pooled is None else [text.pooled.detach().float().cpu()]
    vectors = torch.cat(pooled) if pooled else torch.zeros(0, 1)
    return Near(states=torch.cat(states), subjects=torch.cat(subjects), pooled=vectors)


def unit_gram(batches: Iterable[Tensor], width: int) -> Tensor:
    """Mean of r rᵀ / |r|² (width width) over batches of rows (rows width): of trace 1."""
    total = torch.zeros(width, width, dtype=torch.float64)
    for batch in batches:
        rows = on_cpu(batch)
        unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
        total += unit.T @ unit
    trace = float(total.trace())
    return total / trace if trace else total


def hard_basis(model: Model, never_touch: Sequence[str]) -> Tensor:
    """Orthonormal basis (width rank) of the rows that stay exactly: the begin token, every position of the user's prompts
    up to its end, and as much of the empty prompt as there is room for.

    Raises:
        EffaceError: the user's prompts alone are more than an eighth of the width.
    """
    width = text_width(model)
    room = max(1, width // ROOM)
    exact = [_rows(model, [""], content=True)[:1]] + [_rows(model, [p], content=True) for p in never_touch]
    basis = _span(torch.cat(exact), torch.zeros(width, 0, dtype=torch.float64), share=1.0)
    if never_touch:
        _require_room(basis, room)
    empty = _span(_rows(model, [""], content=False), basis, share=SHARE)
    return torch.cat([basis, empty[:, : max(0, room - basis.shape[1])]], dim=1)


def span_of(rows: Tensor, room: int) -> Tensor:
    """Orthonormal basis (width rank) of rows (rows width) that stay exactly; raises EffaceError where they leave no room."""
    width = rows.shape[1]
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    basis = _span(unit, torch.zeros(width, 0, dtype=rows.dtype), share=1.0)
    _require_room(basis, room)
    return basis


def _require_room(basis: Tensor, room: int) -> None:
    """Raise EffaceError where what must stay spans more than `room` directions."""
    width, rank = basis.shape
    if rank > room:
        raise EffaceError(
            f"what must never be touched spans {rank} directions of the {width} that text has; expected at most {room}: name "
            "fewer or shorter prompts."
        )


def _rows(model: Model, prompts: Sequence[str], content: bool) -> Tensor:
    """Unit rows (rows width) of prompts: those up to the end of each alone, or padding too where the denoiser reads it."""
    text = model.encode(list(prompts))
    states = on_cpu(model.projection_inputs(text))
    mask = text.mask.cpu() if content or not model.family.reads_padding else torch.ones_like(text.mask.cpu())
    rows = states[mask]
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _span(rows: Tensor, basis: Tensor, share: float) -> Tensor:
    """Directions (width rank) of rows outside a basis, the largest first, until the share of their energy is held."""
    outside = rows - rows @ basis @ basis.T
    _, values, directions = torch.linalg.svd(outside, full_matrices=False)
    energy = values.square()
    floor = len(rows) ** 0.5 * max(rows.shape) * torch.finfo(rows.dtype).eps
    rank = int((values > floor).sum())
    if share < 1:
        lost = energy.sum() - energy.cumsum(0)
        rank = min(rank, int((lost > (1 - share) * rows.square().sum()).sum()) + 1)
    return directions[:rank].T


def negatives(model: Model, concepts: Sequence[Concept], kept: Retained, never_touch: Sequence[str]) -> list[Tensor]:
    """Text states (rows width) of all that must open no gate: the empty prompt, what is near, what must never be touched,
    and the prior."""
    own = near_rows(model, ["", *never_touch]).states
    return [own, kept.near.states, *([] if kept.prior is None else [kept.prior.states(concepts)])]
