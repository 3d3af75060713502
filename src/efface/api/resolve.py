"""A user's words in those of the model: concepts and judge, by the model's profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.concepts.reading import split_names
from efface.concepts.words import as_read
from efface.errors import UsageError
from efface.profiles.base import profile_of

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.judges import Judge


def resolve(concept: str | Concept | Sequence[str | Concept], pipeline: Any) -> tuple[Concept, ...]:
    """The concepts that a user means, in the words of the model, each once; several may stand in one string ("cat, dog").

    Raises:
        UsageError: none was given, one is empty, or the model does not know it.
    """
    from efface.erasures import attached_to

    requested = _requested(concept)
    if not requested:
        raise UsageError("no concept was given: name what is to be erased, for example 'church'.")
    for item in requested:
        if isinstance(item, str) and not item.strip():
            raise UsageError(f"the concept {item!r} is empty: name what is to be erased, for example 'church'.")
    profile = profile_of(pipeline)
    # What is erased together, or is erased already, must not take each other's place.
    erased = [c for item in requested for c in ([item] if isinstance(item, Concept) else profile.concepts(item))]
    erased += [c for attachment in attached_to(pipeline) for c in attachment.erasure.provenance.concepts]
    names = {concept.name for concept in erased}
    meant = [c for item in requested for c in ([item] if isinstance(item, Concept) else profile.concepts(item, names))]
    once: dict[str, Concept] = {}
    for concept in meant:
        once.setdefault(as_read(concept.name), concept)
    return tuple(once.values())


def _requested(concept: str | Concept | Sequence[str | Concept]) -> list[str | Concept]:
    """Concepts and single names."""
    given = [concept] if isinstance(concept, str | Concept) else list(concept)
    return [name for item in given for name in (split_names(item) if isinstance(item, str) else (item,))]


def read(concept: str | Concept | Sequence[str | Concept], pipeline: Any) -> list[str]:
    """How names were read, a sentence for everything that was inferred of them; Concepts say themselves what they are."""
    requested = _requested(concept)
    profile = profile_of(pipeline)
    return [remark for item in requested if isinstance(item, str) for remark in profile.remarks(item)]


def concept_of(concept: str | Concept | None, erasures: Sequence[Erasure], pipeline: Any) -> Concept:
    """The one concept that is meant.

    Raises:
        UsageError: none was named and there is no erasure to ask, or a preset of several was.
    """
    if concept is None:
        if not erasures:
            raise UsageError("no concept was given, and no erasure that names one: say what is to be brought back.")
        return erasures[0].provenance.concepts[0]
    concepts = resolve(concept, pipeline)
    if len(concepts) != 1:
        raise UsageError(f"{concept!r} names {len(concepts)} concepts; expected one: attack them one by one.")
    return concepts[0]


def judge_of(judge: Judge | None, concept: Concept, pipeline: Any) -> Judge:
    """The judge given, or the model's own; raises UsageError where there is neither."""
    chosen = judge or profile_of(pipeline).judge(concept)
    if chosen is None:
        raise UsageError("no judge was given: name one that knows the concept (only the emoji canvas brings its own).")
    return chosen
