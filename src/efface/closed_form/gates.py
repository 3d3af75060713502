"""When a prompt names a concept: gates on text states, with thresholds between what must open them and what must not.

A gate's score is the cosine, about a common centre, between a state and a mean state of the concept: at its last subject
token, at the position after it, or over the first four from there, whichever tells the concept best from the others (an
encoder may hold a word's meaning back until the next position). Its threshold lies halfway between the smallest score of the
concept's own prompts (the largest over each prompt's positions) and the largest score of any position of what is retained; where
what is akin to it (another tree than the christmas tree) scores higher, a quarter of the way from there, but never nearer to the
concept's own prompts than the least margin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.closed_form.chunks import Naming
from efface.closed_form.many import Many
from efface.concepts.concept import Concept
from efface.erasures.gates import Gates
from efface.errors import EffaceError

MARGIN = 0.05
"""Distance of the two scores up to which a prototype is refused, and least distance of a threshold to the concept's own."""
AKIN = 0.25
"""Share of the way from what is akin to a concept to its own prompts at which a gate opens."""
BATCH = 8192


class Prototype(NamedTuple):
    """One way in which a concept is named, in one span of tokens."""

    concept: int
    label: str
    """The name, and whether it stands in another place of the sentence."""
    means: Tensor
    """Mean states that its gate may look for (candidates width)."""
    prompts: list[Tensor]
    """States of each prompt from there on (rows width)."""


class Margin(NamedTuple):
    """Scores of a prototype's gate."""

    label: str
    positive: float
    """The smallest of the concept's own prompts."""
    negative: float
    """The largest of what is retained."""

    @property
    def width(self) -> float:
        """By how much the two are apart."""
        return self.positive - self.negative


class Calibrated(NamedTuple):
    """Gates with their thresholds, and what is known of them."""

    gates: Gates
    margins: list[list[Margin]]
    """Of each concept, those that were accepted."""
    refused: list[list[Margin]]
    """Of each concept, those whose margin is too small."""

    def table(self, concepts: Sequence[Concept]) -> dict[str, dict[str, Any]]:
        """Concept -> its smallest margin and the prototypes that were refused."""
        return {
            concept.name: {
                "margin": round(min(m.width for m in accepted), 4),
                "refused": [m.label for m in refused],
            }
            for concept, accepted, refused in zip(concepts, self.margins, self.refused, strict=True)
        }


def prototypes(namings: Sequence[Sequence[Naming]]) -> list[Prototype]:
    """The prototypes of every concept: one for each name, place and span."""
    found = []
    for number, group in enumerate(namings):
        for naming in group:
            for span in sorted({chunk.span for chunk in naming.chunks}):
                prompts = [chunk.c.float() for chunk in naming.chunks if chunk.span == span]
                places = (slice(0, 1), slice(1, 2), slice(0, 4))
                means = [torch.stack([_mean(rows, place) for rows in prompts]).mean(0) for place in places]
                label = naming.name + (" (later in the sentence)" if naming.second else "")
                found.append(Prototype(concept=number, label=label, means=torch.stack(means), prompts=prompts))
    return found


def _mean(rows: Tensor, place: slice) -> Tensor:
    """Mean of some rows (rows width) of a prompt; of the last where it has fewer."""
    return rows[place].mean(0) if len(rows) > place.start else rows[-1]


def calibrate(
    many: Many,
    concepts: Sequence[Concept],
    negatives: Sequence[Tensor],
    least: float = MARGIN,
    akin: Sequence[Tensor] = (),
) -> Calibrated:
    """Gates of all concepts.

    Args:
        many: rows and namings.
        concepts: what is erased, for what is said.
        negatives: text states (rows width) of everything that must open no gate.
        least: margin below which a prototype is refused.
        akin: text states (rows width) of what is nearest to the concepts; they set thresholds and refuse nothing.

    Raises:
        EffaceError: nothing is retained to tell the concepts from, or a concept has no prototype left.
    """
    if not any(len(rows) for rows in negatives):
        raise EffaceError(
            "nothing is retained to tell the concepts from, so that no gate can be set: retain prompts, or read the prior "
            "(efface prior)."
        )
    found = prototypes(many.namings)
    count = sum(len(rows) for rows in negatives)
    centre = sum(part.float().sum(0) for part in _parts(negatives)) / count
    centre = torch.as_tensor(centre)
    gates = [Gates(centre, _unit(p.means - centre), torch.zeros(len(p.means)), torch.zeros(0)) for p in found]
    wide = gates[0]._replace(weights=torch.cat([gate.weights for gate in gates]))
    sizes = [len(p.means) for p in found]
    highest = _highest(wide, negatives).split(sizes)
    nearest = _highest(wide, akin).split(sizes) if any(len(rows) for rows in akin) else highest
    told = [_told(*each, least) for each in zip(found, gates, highest, nearest, strict=True)]
    margins = [one.margin for one in told]
    accepted = torch.tensor([m.width > least for m in margins])
    chosen = Gates(
        centre=centre,
        weights=torch.stack([one.weight for one in told])[accepted],
        thresholds=torch.stack([one.threshold for one in told])[accepted],
        concept=torch.tensor([p.concept for p in found])[accepted],
    )

    def of(concept: int, wanted: bool) -> list[Margin]:
        return [
            m
            for m, p, ok in zip(margins, found, accepted.tolist(), strict=True)
            if p.concept == concept and ok == wanted
        ]

    result = Calibrated(
        gates=chosen,
        margins=[of(i, True) for i in range(len(concepts))],
        refused=[of(i, False) for i in range(len(concepts))],
    )
    missed = [c.name for c, kept in zip(concepts, result.margins, strict=True) if not kept]
    if missed:
        raise EffaceError(
            f"the text encoder does not tell {', '.join(map(repr, missed[:8]))} from what is retained (margins up to "
            f"{max(m.width for group in result.refused for m in group):.2f}, expected more than {least:g}): erase "
            f"{'it' if len(missed) == 1 else 'them'} by 'joint', or retain less beside it."
        )
    return result


class _Told(NamedTuple):
    """The gate of a prototype at the place that tells it best."""

    margin: Margin
    weight: Tensor
    threshold: Tensor


def _told(prototype: Prototype, gate: Gates, others: Tensor, akin: Tensor, least: float) -> _Told:
    """The gate of a prototype, by the largest scores of what is retained and of what is akin at each place (candidates,)."""
    own = torch.stack([gate.scores(rows).amax(0) for rows in prototype.prompts]).amin(0)
    apart = own - others
    if (apart > least).any():
        apart = (own - torch.maximum(others, akin)).where(apart > least, -torch.inf)
    best = int(apart.argmax())
    margin = Margin(prototype.label, positive=float(own[best]), negative=float(others[best]))
    return _Told(margin, weight=gate.weights[best], threshold=_threshold(own[best], others[best], akin[best]))


def _highest(gates: Gates, states: Sequence[Tensor]) -> Tensor:
    """The largest score of each gate (gates,) over text states (rows width)."""
    return torch.stack([gates.scores(part.float()).amax(0) for part in _parts(states)]).amax(0)


def _threshold(own: Tensor, others: Tensor, akin: Tensor) -> Tensor:
    """Where a gate opens, by the smallest score of its own prompts and the largest of what is retained and of what is akin."""
    return torch.maximum((own + others) / 2, torch.minimum(akin + AKIN * (own - akin), own - MARGIN))


def gates_of_states(
    gates: Gates, concept: int, found: Sequence[Tensor], negatives: Sequence[Tensor], least: float
) -> Gates:
    """The gates with one more for each text that attacks found, at the position that tells it best from what is retained.

    Args:
        gates: of the erasure.
        concept: index of the concept that came back.
        found: states of each text (rows width), begin token left out.
        negatives: states (rows width) that must open no gate.
        least: margin below which a text gets no gate.

    Raises:
        EffaceError: no text can be told from what is retained.
    """
    weights, thresholds = [gates.weights], [gates.thresholds]
    for states in found:
        own = gates._replace(weights=_unit(states.float() - gates.centre))
        highest = torch.stack([own.scores(part.float()).amax(0) for part in _parts(negatives)]).amax(0)
        best = int(highest.argmin())
        if 1 - float(highest[best]) > least:  # the text's own score is 1
            weights.append(own.weights[best : best + 1])
            thresholds.append((1 + highest[best : best + 1]) / 2)
    if len(weights) == 1:
        raise EffaceError(
            "what the attack found cannot be told from what is retained: no gate can be set; use 'joint'."
        )
    added = torch.full((len(weights) - 1,), concept)
    return Gates(
        centre=gates.centre,
        weights=torch.cat(weights),
        thresholds=torch.cat(thresholds),
        concept=torch.cat([gates.concept, added]),
    )


def _unit(directions: Tensor) -> Tensor:
    """Directions of length 1 (gates width)."""
    return torch.nn.functional.normalize(directions, dim=1)


def _parts(states: Iterable[Tensor]) -> Iterable[Tensor]:
    """States some rows at a time."""
    return (part for rows in states if len(rows) for part in rows.split(BATCH))
