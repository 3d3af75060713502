"""The only answer to "does this picture show the concept?": audits, attacks, erasers, calibration and benchmarks ask it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.judges.base import Judge

SURE = 0.95
"""A classifier's score above which a picture counts although it is not quite whole: real drawings that missed `intact` by a little
scored above it, debris below, by the classifiers of the canvas of 0.1."""


class Verdict(NamedTuple):
    """What a judge says of one picture and one concept."""

    shown: bool
    """Whether the picture shows the concept."""
    label: str
    """The judge's most likely class."""
    score: float
    """The concept's score; a detector that has no class of its name gives its highest score (0 to 1)."""
    intact: bool
    """Whether the picture is like a real one at all, rather than debris."""


Criterion = Callable[[Sequence[Image.Image]], list[Verdict]]
"""Pictures in, verdicts on one concept out."""


def criterion_for(judge: Judge, concept: Concept | str) -> Criterion:
    """The criterion of one concept by one judge.

    A classifier must call a picture by the concept's name, and the picture be intact or the classifier sure of it
    (`SURE`). A detector must find the class of that name, or anything where it has none.

    Raises:
        UsageError: a classifier has no class of that name.
    """
    name = concept if isinstance(concept, str) else concept.name
    require_known(judge, name)
    return lambda images: verdicts_on(judge, images, [name] * len(images))


def require_known(judge: Judge, *names: str) -> None:
    """Raise UsageError where a judge cannot say whether a picture shows one of these."""
    for name in names:
        if name not in judge.classes and not judge.detects:
            raise UsageError(
                f"the judge {judge.name} has no class {name!r}: give one whose classes name the concept, or a detector."
            )


def verdicts_on(judge: Judge, images: Sequence[Image.Image], names: Sequence[str | None]) -> list[Verdict]:
    """One verdict a picture, each on a concept of its own; None asks a detector for anything at all.

    Args:
        judge: knows every name (see `require_known`).
        images: are judged together.
        names: one concept a picture.
    """
    if not images:
        return []
    judged = judge(images)
    scores, intact = judged.scores.cpu(), judged.intact.tolist()
    verdicts = []
    for i, name in enumerate(names):
        column = judge.classes.index(name) if name in judge.classes else None
        score = float(scores[i].amax() if column is None else scores[i, column])
        if judged.counts is None:
            shown = is_shown(name, judged.labels[i], score, intact=bool(intact[i]))
        else:
            shown = bool((judged.counts[i] if column is None else judged.counts[i, column]).sum() > 0)
        verdicts.append(Verdict(shown=shown, label=judged.labels[i], score=round(score, 6), intact=bool(intact[i])))
    return verdicts


def is_shown(name: str | None, label: str, score: float, *, intact: bool) -> bool:
    """A classifier's part of the criterion, from the class that it gave a picture and the score of that class."""
    return label == name and (intact or score >= SURE)


def recorded_as_shown(entry: Mapping[str, Any], name: str | None) -> bool:
    """The criterion on what was recorded of a picture: `label`, `score` and `intact` of a classifier, `counts` of a detector.

    Args:
        entry: what one judge said of one picture.
        name: a class; None asks a detector for anything at all.
    """
    counts = entry.get("counts")
    if counts is None:
        return is_shown(name, entry["label"], entry["score"], intact=entry["intact"])
    return (sum(counts.values()) if name is None else counts.get(name, 0)) > 0
