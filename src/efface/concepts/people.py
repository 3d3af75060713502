"""Whose name it is: an artist of the public list, somebody known, or anybody with a given name in front."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache

from efface.concepts.names import MORE_ARTISTS, PERSONS, artists, given_names
from efface.concepts.nouns import PERSONS as PERSON_FILE
from efface.concepts.nouns import nouns
from efface.concepts.words import SMALL_WORDS, folded, singulars

MAKERS = ("artist", "painter", "sculptor", "photographer", "illustrator", "architect", "cartoonist", "engraver")
"""Persons whose name is used for the style of their work."""
VERY_NEAR = 0.92
"""Likeness (difflib) from which on a name of several words is an artist's, misspelt."""


def in_use(name: str) -> bool:
    """Whether a name, or what it is the plural of, is above all a common noun that occurs in WordNet's tagged texts."""
    for form in singulars(name):
        meanings = [nouns().meaning(number) for number in nouns().senses(form)]
        if meanings and not meanings[0].instance and meanings[0].tagged > 0:
            return True
        if meanings and name != name.lower():
            return False  # in capital letters it is no plural
    return False


def surnames(name: str) -> Iterable[str]:
    """The last word of a name, alone and with the particles before it ("gogh", "van gogh"), folded."""
    words = folded(name).split()
    first = len(words) - 1
    yield words[-1]
    while first > 0 and words[first - 1] in SMALL_WORDS:
        first -= 1
        yield " ".join(words[first:])


def spellings(name: str) -> Iterable[str]:
    """A full name, folded: as it is, without what stands in brackets, with initials run together ("hr giger")."""
    yield folded(name)
    plain = folded(re.sub(r"\([^)]*\)", " ", name))
    yield plain
    yield re.sub(r"\b(\w) (?=\w\b)", r"\1", plain)


@lru_cache(maxsize=1)
def by_name() -> dict[str, str]:
    """Folded name or surname -> the artist of the public list, the better known where several share it."""
    everyone = (*artists(), *MORE_ARTISTS)
    found = {spelling: name for name in reversed(everyone) for spelling in spellings(name)}
    for name in everyone:
        for surname in surnames(name):
            if len(surname) > 2:
                found.setdefault(surname, name)
    return found


def artist_of(name: str) -> str | None:
    """The artist who is called so: one of the public list by full name or surname, or one whom WordNet knows."""
    for spelling in spellings(name):
        if spelling in by_name():
            return by_name()[spelling]
    if " " in folded(name):
        for key in difflib.get_close_matches(folded(name), by_name(), n=1, cutoff=VERY_NEAR):
            return by_name()[key]
    return instance(name, MAKERS)


def instance(name: str, kinds: tuple[str, ...]) -> str | None:
    """A person of one of these kinds whom WordNet knows by this very name, with the longest of the person's names."""
    for number in nouns().numbers.get(folded(name), ()):
        meaning = nouns().meaning(number)
        if meaning.instance and meaning.file == PERSON_FILE and nouns().is_a(number, *kinds):
            return max(meaning.words, key=len)
    return None


def known_person(name: str) -> str | None:
    """One of the persons whom these models know, by full name or surname."""
    return {key: person for person in PERSONS for key in (folded(person), *surnames(person))}.get(folded(name))


def person_of(name: str) -> str | None:
    """Why a name is a person's: someone known is called so, or a given name stands in front of what is no noun."""
    found = known_person(name) or instance(name, ("person",))
    if found is not None:
        return found
    words = folded(name).split()
    if len(words) not in (2, 3) or words[0] not in given_names() or nouns().senses(name):
        return None
    capital = all(word[0].isupper() for word in name.split())
    if capital or not (nouns().senses(words[0]) or nouns().senses(words[-1])):
        return f"{words[0].capitalize()} is a given name"
    return None
