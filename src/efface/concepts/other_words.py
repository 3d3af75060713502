"""Other words for a concept: synonyms, descriptions that do not name it, names in other languages, things to stand beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from efface.concepts.concept import Concept
from efface.concepts.languages import translated
from efface.concepts.names import families, sensitive, sensitive_words
from efface.concepts.nouns import PERSONS, nouns
from efface.concepts.retained import naming
from efface.concepts.same import same
from efface.concepts.siblings import is_artist, thing
from efface.concepts.tables import packed_lines
from efface.concepts.words import folded, whole_words

ENOUGH = 4
"""Synonyms below which words for kinds of the concept are taken as well."""
MOST = 8
"""Synonyms that are taken."""
COMPANIONS = ("dog", "tree", "car", "chair", "bird", "boat", "flower", "clock")
"""Plain things that any model draws."""
DETERMINERS = ("a ", "an ", "the ", "any ", "one ", "some ", "something ", "someone ", "those ", "two ")
"""What a definition begins with that needs no article."""


class OtherWords(NamedTuple):
    """Other words for one concept, none of which names it or is one of its aliases."""

    synonyms: tuple[str, ...]
    """Nouns, or names, that stand where its name stands."""
    descriptions: tuple[str, ...]
    """Noun phrases with their articles."""
    languages: dict[str, tuple[str, ...]]
    """Language -> its names there."""
    companions: tuple[str, ...] = COMPANIONS
    """Nouns of other things that the model draws."""


def other_words(concept: Concept) -> OtherWords:
    """What WordNet and the names of emoji know of a concept; aliases are left out, since some erasures were told them."""
    own = same(concept)
    described = [_description(concept, number) for number in _meanings(concept)]
    return OtherWords(
        synonyms=_others(concept, _synonyms(concept))[:MOST],
        descriptions=tuple(filter(None, described)),
        languages=translated((concept.name, *concept.aliases, *_true_synonyms(concept))),
        companions=tuple(name for name in COMPANIONS if not own.excludes(name)),
    )


def _others(concept: Concept, words: Iterable[str]) -> tuple[str, ...]:
    """Those of some words that neither name the concept nor are among its aliases, each once."""
    aliases = {folded(alias) for alias in concept.aliases}
    by_key = {folded(word): word for word in reversed(list(words)) if whole_words(word)}
    told = [word for key, word in reversed(by_key.items()) if key not in aliases]
    named = set(naming(told, [Concept(concept.name)]))
    return tuple(word for word in told if word not in named)


def _synonyms(concept: Concept) -> list[str]:
    """Words of the same meaning, the surest first; of kinds of it where there are few."""
    found = [*_true_synonyms(concept), *families().get(folded(concept.name), ())]
    topic = sensitive().get(folded(concept.name))
    if concept.kind == "explicit" and topic:
        found += sensitive_words()[topic]
    if concept.kind == "object" and len(_others(concept, found)) < ENOUGH:
        found += [name for meaning in _meanings(concept) for name in _kinds(meaning)]
    return found


def _true_synonyms(concept: Concept) -> list[str]:
    """The other words of its meaning."""
    return [word for number in _meanings(concept) for word in nouns().meaning(number).words]


def _meanings(concept: Concept) -> list[int]:
    """WordNet's meaning of a concept of its kind; nothing where it knows none."""
    if concept.kind == "object":
        number = thing(concept.name)
        exact = set(nouns().senses(concept.name))
        return [number] if number in exact else []
    senses = nouns().senses(concept.name)
    if concept.kind == "person" or (concept.kind == "style" and is_artist(concept)):
        senses = [number for number in senses if nouns().meaning(number).file == PERSONS]
    return senses[:1]


def _kinds(number: int) -> Iterator[str]:
    """Words for kinds of a meaning, those that texts speak of most first; only what each word usually means, no Latin names."""
    kinds = [nouns().meaning(kind) for kind in nouns().descend([number]) if kind != number]
    for kind in sorted(kinds, key=lambda kind: -kind.tagged):
        for word, rank in zip(kind.words, kind.ranks, strict=True):
            if rank == 1 and not kind.instance and word == word.lower():
                yield word


def _description(concept: Concept, number: int) -> str:
    """The definition of a meaning with its article; "" where there is none, or it names the concept."""
    text = definitions()[number]
    told = Concept(concept.name, aliases=(*concept.aliases, *_true_synonyms(concept)))
    if not text or naming([text], [told]):
        return ""
    return text if text.lower().startswith(DETERMINERS) else f"{article(text)} {text}"


def article(noun: str) -> str:
    """ "an" before a vowel's letter, else "a"."""
    return "an" if folded(noun)[:1] in tuple("aeiou") else "a"


@lru_cache(maxsize=1)
def definitions() -> list[str]:
    """The first clause of WordNet's definition of every meaning; "" where it is of no use in a prompt."""
    return packed_lines("definitions.txt.xz")
