"""What the erasures of many concepts share: rows, what is retained, the found weight, and what may suffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from efface.closed_form.chunks import Chunk, Naming, anchors_for, block_of, namings
from efface.closed_form.extend import evidence_pairs
from efface.closed_form.gram import key_value_gram_of
from efface.closed_form.maps import LowRankMap
from efface.closed_form.pooled import Pooled, block_of_vectors, gather_pooled, pooled_of, pooled_retention
from efface.closed_form.retention import Retained, near_rows, prior_for, retained
from efface.closed_form.system import Retention, Rows
from efface.closed_form.weight import FoundWeight, weight_for
from efface.concepts.concept import Concept, default_anchor
from efface.erasures import Provenance
from efface.models.model import Model, Text
from efface.models.precision import on_cpu

SUFFERS = 0.35
"""Movement of a retained prompt, in units of its distance to the nearest other one, from which on it may suffer."""
NAMED = 8
"""How many of those are named."""


class Many(NamedTuple):
    """Everything that an erasure of a list is made from."""

    rows: Rows
    """Each concept's rows, of energy 1."""
    namings: list[list[Naming]]
    """Of each concept, by name and place in the sentence."""
    kept: Retained
    s: Tensor
    """Σ WᵀW (width width)."""
    found: FoundWeight
    pooled: Pooled | None
    """Of the pooled text; None where the model has none that a map reaches."""

    @property
    def erase(self) -> float:
        """e of the whole list: the moments are means over the concepts."""
        return 1 / self.rows.concepts

    def notes(self) -> dict[str, Any]:
        """What an erasure's notes say of it, sentences for the user among them."""
        remarks = [*self.kept.remarks(), self.found.remark(), *filter(None, [self.crowded()])]
        notes = self.found.notes() | {"prior": self.kept.prior is not None, "remarks": remarks}
        return notes | ({} if self.pooled is None else {"pooled": self.pooled.found.notes()})

    def settings(self) -> dict[str, Any]:
        """What was found, as options of a further edit (`extended_rows`) in an erasure's header."""
        pooled = {} if self.pooled is None else {"pooled_weight": self.pooled.found.weight}
        return {"weight": self.found.weight} | pooled

    def crowded(self) -> str:
        """A warning where the concepts fill more than half of the room; nothing otherwise."""
        width, hard = self.kept.retention.hard.shape
        if len(self.rows.c) <= (width - hard) / 2:
            return ""
        return (
            f"the concepts span {len(self.rows.c)} of the {width - hard} directions that can be edited: one linear map will "
            "damage what it retains; the method 'gated' does not."
        )


class Options(Protocol):
    """Those options of a method for lists that decide how it reads them (`efface.erasers.base.Listed`)."""

    @property
    def keep(self) -> Sequence[str] | None: ...
    @property
    def anchors(self) -> int: ...
    @property
    def aliases(self) -> bool: ...
    @property
    def never_touch(self) -> Sequence[str]: ...
    @property
    def prior(self) -> str: ...
    @property
    def weight(self) -> float | None: ...
    @property
    def goal(self) -> float: ...
    @property
    def ridge(self) -> float: ...


def gather(model: Model, concepts: Sequence[Concept], options: Options) -> Many:
    """Encode a list of concepts and all that is retained, and find the weight.

    Raises:
        EffaceError: a prompt is too long, the states are not finite, or too much must stay exactly.
    """
    named: list[list[Naming]] = []
    for concept in concepts:
        anchors = anchors_for(model, concept, concepts, options.anchors)
        named.append(list(namings(model, concept, anchors, options.aliases)))
    blocks = [block_of(chunk for naming in group for chunk in naming.chunks) for group in named]
    rows = Rows.stack([(block.c, block.t) for block in blocks])
    prior = prior_for(model, len(concepts), options.prior)
    near = near_rows(model, options.keep or ())
    kept = retained(model, concepts, near, options.never_touch, prior, options.ridge)
    s = key_value_gram_of(model)
    found = weight_for(rows, kept.retention, s, erase=1 / rows.concepts, goal=options.goal, weight=options.weight)
    pooled = gather_pooled(
        model, named, concepts, kept, options.never_touch,
        goal=options.goal, weight=options.weight, ridge=options.ridge,
    )  # fmt: skip
    return Many(rows=rows, namings=named, kept=kept, s=s, found=found, pooled=pooled)


def may_suffer(many: Many, map_: LowRankMap, keep: Sequence[str]) -> dict[str, float]:
    """Retained prompts that a map moves by more than SUFFERS of their distance to the nearest other one, worst first."""
    r = many.kept.near.subjects
    if len(r) < 2:
        return {}
    change = map_.u @ (map_.v.T @ r.T)
    moved = (change * (many.s @ change)).sum(0).clamp(min=0).sqrt()
    products = r @ many.s @ r.T
    own = products.diagonal()
    apart = (own[:, None] + own[None] - 2 * products).clamp(min=0).sqrt()
    apart.fill_diagonal_(float("inf"))
    shares = moved / apart.amin(1).clamp(min=float(own.max()) ** 0.5 * 1e-6)
    order = shares.argsort(descending=True)[:NAMED]
    return {keep[int(i)]: round(float(shares[i]), 3) for i in order if shares[i] > SUFFERS}


class Extension(NamedTuple):
    """One more edit, of states that attacks found."""

    rows: Rows
    kept: Retained
    """What it retains."""
    pooled: tuple[Rows, Retention] | None
    """The same of the pooled text; None where the erasure does not map it, or the states came without."""


def extension(
    model: Model, origin: Provenance, options: Options, found: tuple[Concept, Text, Sequence[str]]
) -> Extension:
    """One more edit, of states that attacks found.

    Args:
        model: the unerased model.
        origin: of the erasure; its other concepts stay where it put them.
        options: its own.
        found: the concept that came back, states (batch tokens width), and the anchor prompt of each.
    """
    concept, text, anchors = found
    pairs = evidence_pairs(model, concept, text, anchors, "subject")
    block = block_of(Chunk(c=on_cpu(c), t=on_cpu(t), span=0) for c, t in pairs)
    near = near_rows(model, origin.keep)
    prior = prior_for(model, 0, options.prior)
    others = [other for other in origin.concepts if other.name != concept.name]
    kept = retained(model, origin.concepts, near, options.never_touch, prior, options.ridge, before=others)
    pooled = None
    if text.pooled is not None and "pooled_weight" in origin.config:
        sources = torch.cat([on_cpu(text.pooled), pooled_of(model, concept.prompts())])
        targets = torch.cat([pooled_of(model, anchors), pooled_of(model, concept.anchors(default_anchor(concept)))])
        rows = Rows.stack([block_of_vectors(sources, targets)])
        width = rows.c.shape[1]
        pooled = rows, pooled_retention(model, origin.concepts, kept, options.never_touch, options.ridge, width)
    return Extension(rows=Rows.stack([(block.c, block.t)]), kept=kept, pooled=pooled)
