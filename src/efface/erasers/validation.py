"""Judge-based stopping: look at a few validation pictures after every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efface.concepts.concept import Concept
from efface.erasers.base import Validation
from efface.erasures import Erasure
from efface.errors import UsageError
from efface.judges import Judge
from efface.models.model import Model


def validation_of(
    model: Model, concepts: Sequence[Concept], judge: Judge | Validation | None, **sampling: Any
) -> Validation | None:
    """What says after each epoch how much is left: a judge over a few pictures, or the function that was given instead."""
    if judge is None or not isinstance(judge, Judge):
        return judge
    return epoch_judge(model, concepts, judge, **sampling)


def epoch_judge(
    model: Model, concepts: Sequence[Concept], judge: Judge, *, seeds: Sequence[int] = range(2), **sampling: Any
) -> Validation:
    """A judge of epochs: draws every concept's prompts with the erasure attached, counts the pictures that show it.

    Args:
        model: the unerased model.
        concepts: what is being erased.
        judge: its labels must contain the concepts' names.
        seeds: of the validation pictures, for each prompt.
        sampling: steps and guidance of `Model.draw`.

    Raises:
        UsageError: the judge does not know one of the concepts.
    """
    unknown = [concept.name for concept in concepts if concept.name not in judge.classes]
    if unknown:
        raise UsageError(
            f"the judge {judge.name} has no class {unknown[0]!r}: give one whose classes name the concept."
        )
    work = [(concept.name, prompt, seed) for concept in concepts for prompt in concept.prompts() for seed in seeds]

    def rate(erasure: Erasure) -> float:
        with erasure.attached(model.pipeline):
            pictures = model.draw([prompt for _, prompt, _ in work], seeds=[seed for *_, seed in work], **sampling)
        verdicts = judge(pictures)
        return sum(label == name for label, (name, *_) in zip(verdicts.labels, work, strict=True)) / len(work)

    return rate
