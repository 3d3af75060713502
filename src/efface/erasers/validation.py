"""Validation of epochs: the share of a few pictures that still show the concept, by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efface.concepts.concept import Concept
from efface.concepts.sample import Sample
from efface.erasers.base import Validation
from efface.erasures import Erasure
from efface.judges import Judge
from efface.judges.criterion import require_known, verdicts_on
from efface.models.model import Model

SEEDS = range(2)
"""Of the validation pictures, for each prompt."""


def validation_of(
    model: Model, concepts: Sequence[Concept], judge: Judge | Validation | None, **sampling: Any
) -> Validation | None:
    """The validation that a judge stands for, or the function that was passed in its place; None without either."""
    if judge is None or not isinstance(judge, Judge):
        return judge
    return judged_validation(model, concepts, judge, **sampling)


def judged_validation(
    model: Model, concepts: Sequence[Concept], judge: Judge, *, seeds: Sequence[int] = SEEDS, **sampling: Any
) -> Validation:
    """Draws every concept's prompts with the erasure attached, and counts the pictures that show it by the criterion.

    Args:
        model: the unerased model.
        concepts: what is being erased.
        judge: its classes name the concepts, or it is a detector.
        seeds: of the validation pictures, for each prompt.
        sampling: steps and guidance of `Model.draw`.

    Raises:
        UsageError: the judge does not know one of the concepts.
    """
    require_known(judge, *(concept.name for concept in concepts))
    samples = [Sample(prompt, seed, (c.name,)) for c in concepts for prompt in c.prompts() for seed in seeds]

    def share_shown(erasure: Erasure) -> float:
        with erasure.attached(model.pipeline):
            images = model.draw([s.prompt for s in samples], seeds=[s.seed for s in samples], checked=False, **sampling)
        verdicts = verdicts_on(judge, images, [s.concept for s in samples])
        return sum(verdict.shown for verdict in verdicts) / len(verdicts)

    return share_shown
