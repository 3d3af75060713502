"""Whether a concept is in a picture, by a judge's word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image

from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.judges.base import Judge


class Seen(NamedTuple):
    """What a judge says of one picture."""

    shown: bool
    """Whether the concept is there (see `eye_of`)."""
    label: str
    """The judge's most likely class."""
    score: float
    """Of the concept, 0 to 1."""
    intact: bool
    """Whether the picture is like a real one at all."""


SURE = 0.95
"""A classifier's score above which a picture counts although it is not quite whole: on the emoji canvas real drawings that
miss `intact` by a little score above it, debris below."""

Eye = Callable[[Sequence[Image.Image]], list[Seen]]
"""Pictures in, verdicts on one concept out."""


def eye_of(judge: Judge, concept: Concept) -> Eye:
    """An eye for a concept: a classifier must call a picture by the concept's name, and the picture be whole or the
    classifier sure; a detector must find something.

    Raises:
        UsageError: the judge has no class of that name and counts nothing.
    """
    named = concept.name in judge.classes
    if not named and judge([Image.new("RGB", (64, 64))]).counts is None:
        raise UsageError(
            f"the judge {judge.name} has no class {concept.name!r}: give one whose classes name the concept, or a detector."
        )

    def eye(pictures: Sequence[Image.Image]) -> list[Seen]:
        if not pictures:
            return []
        verdicts = judge(pictures)
        if named:
            scores = verdicts.scores[:, judge.classes.index(concept.name)]
            trusted = (verdicts.intact.cpu() | (scores.cpu() >= SURE)).tolist()
            shown = [label == concept.name and ok for label, ok in zip(verdicts.labels, trusted, strict=True)]
        else:
            assert verdicts.counts is not None
            scores, shown = verdicts.scores.amax(1), (verdicts.counts.sum(1) > 0).tolist()
        rows = zip(shown, verdicts.labels, scores.tolist(), verdicts.intact.tolist(), strict=True)
        return [Seen(bool(s), label, round(score, 6), bool(whole)) for s, label, score, whole in rows]

    return eye
