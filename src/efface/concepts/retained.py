"""What an erasure retains when its user names nothing: never what is to go, whatever the text space puts nearest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from efface.concepts.concept import Concept
from efface.concepts.names import NEUTRAL
from efface.concepts.nouns import nouns
from efface.concepts.same import Same, same
from efface.concepts.siblings import siblings
from efface.concepts.words import folded, meaningful, whole_words

FEW = 4
"""Siblings below which the table is taken to know nothing of a concept."""


def candidates(concept: Concept, words: Iterable[str], erased: Sequence[Concept] = ()) -> list[str]:
    """What may be retained beside a concept, before a text space orders it.

    Args:
        words: words that the model knows; they count only where no siblings of the concept are known.
        erased: what is erased together with it, and must not be retained either.
    """
    if concept.kind in ("explicit", "abstract"):
        return []
    others = [same(other) for other in erased if other != concept]
    known = [name for name in siblings(concept) if not any(other.excludes(name) for other in others)]
    if len(known) >= FEW:
        return known
    going = [same(concept), *others]
    return [*known, *(word for word in dict.fromkeys(words) if may_stay(word, going))]


def may_stay(word: str, going: Sequence[Same]) -> bool:
    """Whether a word is known to name, above all, something that can be seen and is no person, and nothing that is to go.

    A word that the table does not know may be anything, a nickname of the concept too.
    """
    return folded(word) in nouns().things and whole_words(word) and not any(own.excludes(word) for own in going)


def proposals(concept: Concept, ranked: Sequence[str], count: int = 16, erased: Sequence[Concept] = ()) -> list[str]:
    """At most `count` names, or for explicit and abstract concepts prompts, to retain beside a concept.

    Args:
        ranked: words or names, those nearest in a text space first; any order gives a sound answer.
        count: how many are wanted.
        erased: what is erased together with it, and must not be retained either.
    """
    if concept.kind in ("explicit", "abstract"):
        return neutral_prompts([concept, *erased])[:count]
    found = candidates(concept, ranked, erased)
    place = {folded(word): number for number, word in reversed(list(enumerate(ranked)))}
    return sorted(found, key=lambda name: place.get(folded(name), len(ranked)))[:count]


def neutral_prompts(erased: Sequence[Concept]) -> list[str]:
    """The neutral prompts that name nothing of what is erased."""
    going = [same(concept) for concept in erased]
    return [p for p in NEUTRAL if not any(own.covers(word) for own in going for word in meaningful(p))]
