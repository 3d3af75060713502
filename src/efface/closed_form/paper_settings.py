"""RECE's settings by kind of concept: its paper's appendix (arXiv 2407.12383), and what its public code retains; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from efface.concepts.concept import Concept
from efface.concepts.names import artists
from efface.concepts.presets import HARD_OBJECTS, UNSAFE_WORDS
from efface.concepts.retained import naming
from efface.concepts.words import as_read


class PaperSettings(NamedTuple):
    """Settings that the paper's appendix lists by kind of concept."""

    regulariser: float
    """λ_r."""
    epochs: int
    """Rounds of deriving and erasing."""
    retained: str
    """The neutral prompt."""


def paper_settings(concepts: Sequence[Concept]) -> PaperSettings:
    """The paper's settings for these concepts."""
    kinds = {c.kind for c in concepts}
    names = [{as_read(name) for name in (c.name, *c.aliases)} for c in concepts]
    if kinds & {"explicit", "abstract"}:
        epochs = 2 if len(names) > 1 and all(called & set(UNSAFE_WORDS) for called in names) else 3
        return PaperSettings(1e-1, epochs, " ")
    if kinds & {"style", "person"} or any(called & set(HARD_OBJECTS) for called in names):
        return PaperSettings(1e-3, 1, "")
    return PaperSettings(1e-1, 1, "")


def first_weight(number: int) -> float:
    """p of the UCE stage in the authors' code for a number of retained prompts: max(0.1, 1/number), to three decimals."""
    return round(max(0.1, 1 / number), 3)


def neutral_counts(concepts: Sequence[Concept], rule: str) -> tuple[int, int]:
    """How often the neutral prompt counts in the UCE stage and in the epochs (`Config.neutral_count`)."""
    if rule == "concepts":
        return len(concepts), len(concepts)
    return 1, len(concepts) if any(c.kind in ("explicit", "abstract") for c in concepts) else 1


def published_keep(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """What the authors retain besides the neutral prompt: for styles every other artist of the public list, else nothing."""
    if not any(concept.kind == "style" for concept in concepts):
        return ()
    named = set(naming(artists(), concepts))
    return tuple(artist for artist in artists() if artist not in named)
