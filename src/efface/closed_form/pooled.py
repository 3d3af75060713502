"""The same system for the pooled text: one vector a prompt, which enters beside the timestep through a matrix of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from efface.closed_form.blocks import compress
from efface.closed_form.chunks import Naming
from efface.closed_form.gram import key_value_gram
from efface.closed_form.maps import LowRankMap
from efface.closed_form.retention import ROOM, Retained, span_of, unit_gram
from efface.closed_form.system import Retention, Rows, joint_map
from efface.closed_form.weight import FoundWeight, weight_for
from efface.concepts.concept import Concept
from efface.erasures.dual import MapRows
from efface.models.model import Model
from efface.models.originals import originals_of
from efface.models.precision import on_cpu


class Pooled(NamedTuple):
    """Everything that the map of the pooled text is made from."""

    rows: Rows
    """Each concept's pooled prompts, reduced, of energy 1."""
    retention: Retention
    found: FoundWeight

    @property
    def erase(self) -> float:
        """e of the whole list."""
        return 1 / self.rows.concepts

    def map(self) -> LowRankMap:
        """The map (★) of all concepts."""
        return joint_map(self.rows, self.retention, erase=self.erase, weight=self.found.weight)

    def map_rows(self) -> MapRows:
        """What maps of some of them are solved from."""
        return map_rows(self.rows, self.retention, self.found.weight)


def gather_pooled(
    model: Model,
    namings: Sequence[Sequence[Naming]],
    concepts: Sequence[Concept],
    kept: Retained,
    never_touch: Sequence[str],
    *,
    goal: float,
    weight: float | None,
    ridge: float,
) -> Pooled | None:
    """What the map of the pooled text is made from; None where the model has none that a map reaches.

    Args:
        model: the model.
        namings: of each concept, encoded.
        concepts: what is erased.
        kept: what is retained of the text states, whose prompts are retained here too.
        never_touch: prompts whose pooled text stays exactly, as the empty prompt's does.
        goal: progress, 0 to 1.
        weight: p; None has it found.
        ridge: λ, in units of the mean eigenvalue of the moment.

    Raises:
        EffaceError: so much must stay exactly that there is no room to edit in.
    """
    found = [[naming.pooled for naming in group if naming.pooled is not None] for group in namings]
    if not model.family.pooled_projections() or not all(found):
        return None
    blocks = [block_of_vectors(torch.cat([c for c, _ in group]), torch.cat([t for _, t in group])) for group in found]
    rows = Rows.stack(blocks)
    retention = pooled_retention(model, concepts, kept, never_touch, ridge, rows.c.shape[1])
    s = pooled_gram(model, rows.c.shape[1])
    weights = weight_for(rows, retention, s, erase=1 / rows.concepts, goal=goal, weight=weight)
    return Pooled(rows=rows, retention=retention, found=weights)


def block_of_vectors(c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """A concept's vectors and their targets (each rows width), reduced; unit vectors, and each concept once."""
    c, t = on_cpu(c), on_cpu(t)
    scale = c.norm(dim=1, keepdim=True).clamp(min=torch.finfo(c.dtype).tiny) * len(c) ** 0.5
    block = compress(c / scale, t / scale)
    return block.c, block.t


def pooled_retention(
    model: Model, concepts: Sequence[Concept], kept: Retained, never_touch: Sequence[str], ridge: float, width: int
) -> Retention:
    """What the map leaves: the means of the moments of retained prompts, of the prior and of earlier erasures; exactly the
    empty prompt and `never_touch`."""
    vectors = [kept.near.pooled] if len(kept.near.pooled) else []
    vectors += [pooled_of(model, kept.before)] if kept.before else []
    if kept.prior is not None and kept.prior.pooled is not None:
        vectors.append(kept.prior.pooled_vectors(concepts))
    parts = [unit_gram([rows], width) for rows in vectors]
    gram = torch.stack(parts).mean(0) if parts else torch.zeros(width, width, dtype=torch.float64)
    exact = pooled_of(model, ["", *never_touch])
    return Retention(gram=gram, ridge=ridge / width, hard=span_of(exact, max(1, width // ROOM)))


def pooled_gram(model: Model, width: int) -> Tensor:
    """S = Σ WᵀW (width width) over the columns that read pooled text, of unedited matrices, in float64."""
    originals = originals_of(model)
    weights = [originals.get(f"{p.name}.weight", p.weight()) for p in model.family.pooled_projections()]
    return key_value_gram([weight[:, :width] for weight in weights], blocks=1)


def map_rows(rows: Rows, retention: Retention, weight: float) -> MapRows:
    """What maps of some concepts are solved from."""
    v = retention.spread(weight, rows.c)
    return MapRows(c=rows.c, difference=(rows.t - rows.c).T, v=v, owner=rows.owner)


def pooled_of(model: Model, prompts: Sequence[str]) -> Tensor:
    """Pooled text of prompts (prompts width) in float64, of a model that has it."""
    vectors = model.encode(list(prompts)).pooled
    assert vectors is not None
    return on_cpu(vectors)
