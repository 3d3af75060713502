"""A user's words as concepts: presets by any spelling, artists and persons known as such; every guess is said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from efface.concepts.concept import Concept, Kind
from efface.concepts.names import MILD, OBJECTS, PERSONS, STYLES, artists, given_names, sensitive, style_names
from efface.concepts.nouns import PERSONS as PERSON_FILE
from efface.concepts.nouns import THINGS, nouns
from efface.concepts.presets import PRESETS
from efface.concepts.words import SMALL_WORDS, as_read, folded, meaningful

ALIASES = {
    "chainsaw": "chain saw", "petrol pump": "gas pump", "gasoline pump": "gas pump", "fuel pump": "gas pump",
    "dustcart": "garbage truck", "bin lorry": "garbage truck", "refuse truck": "garbage truck",
    "trash truck": "garbage truck", "english springer spaniel": "English springer", "tape player": "cassette player",
    "cassette deck": "cassette player", "golfball": "golf ball", "horn (french)": "French horn", "ajin": "Ajin: Demi Human",
    "rembrandt van rijn": "Rembrandt", "michelangelo merisi da caravaggio": "Caravaggio", "nakedness": "nudity",
}  # fmt: skip
"""Other names of the presets' concepts."""

ABSTRACT = frozenset({"04", "07", "12", "16", "26"})
"""WordNet's files of acts, attributes, feelings, motives and states."""
MAKERS = ("artist", "painter", "sculptor", "photographer", "illustrator", "architect", "cartoonist", "engraver")
"""Persons whose name is used for the style of their work."""
NEAR = 0.84
"""Likeness of two spellings (difflib) from which on one may be meant for the other."""

VERY_NEAR = 0.92
"""Likeness from which on a name of several words is an artist's, misspelt."""


class Reading(NamedTuple):
    """What a user's words were taken for."""

    concepts: tuple[Concept, ...]
    """The concepts; several for a preset."""
    remarks: tuple[str, ...]
    """What was inferred or may have been meant, a sentence each; nothing where the words say it all."""


def read_concept(text: str) -> Reading:
    """What is meant by a name: a preset by its name, an alias or a surname; a concept of the kind that the name tells.

    Letters' case, accents and spaces do not matter, since tokenizers do not see them. A name that is a common noun, too,
    is an object, with a remark where an artist or a person of that name is known.

    Raises:
        UsageError: an empty name.
    """
    name = " ".join(text.split())
    plain = Concept(name)
    groups = {folded(group): concepts for group, concepts in PRESETS.items()}
    if folded(name) in groups:
        return Reading(concepts=groups[folded(name)], remarks=())
    known = {as_read(concept.name): concept for preset in PRESETS.values() for concept in preset}
    if as_read(name) in known:
        return Reading(concepts=(known[as_read(name)],), remarks=())
    return _preset(name) or _named(plain) or _described(plain) or Reading(concepts=(plain,), remarks=_near(plain.name))


def _preset(name: str) -> Reading | None:
    """A preset's concept by another name; the words stay as they were typed, since they are what is erased."""
    presets = {folded(concept.name): concept for preset in PRESETS.values() for concept in preset}
    surnames = {key: concept for concept in PRESETS["artists"] for key in _surnames(concept.name)}
    found = presets.get(folded(name)) or presets.get(folded(ALIASES.get(folded(name), "")))
    if found is None and folded(name) in surnames and not _common(name):
        found = surnames[folded(name)]
    if found is None:
        return None
    concept = replace(found, name=name, aliases=(found.name, *found.aliases))
    return Reading(concepts=(concept,), remarks=(f"{name!r} is read as {found.name}, {_kind_of(concept)}.",))


def _kind_of(concept: Concept) -> str:
    """A kind in words, with what takes its place where that is a word."""
    kinds = {"object": "an object", "style": "a style, led to 'art'", "person": "a person"}
    return kinds.get(concept.kind, f"an {concept.kind} concept")


def _inferred(concept: Concept, kind: Kind, reason: str) -> Reading:
    """A concept of a kind that its name tells, and the sentence that says so."""
    concept = replace(concept, kind=kind)
    remark = f"{concept.name!r} is read as {_kind_of(concept)} ({reason}); give the kind to say otherwise."
    return Reading(concepts=(concept,), remarks=(remark,))


def _named(concept: Concept) -> Reading | None:
    """An artist or a person whose name it is; a common noun of that name is an object, and the remark asks."""
    name = concept.name
    artist, person = artist_of(name), person_of(name)
    if artist is None and person is None:
        return None
    if _common(name):
        if name == name.lower() and _in_use(name):
            return None
        who = f"the artist {artist}" if artist else str(person)
        remark = f"{name!r} is read as an object; if {who} is meant, give the kind ({'style' if artist else 'person'})."
        return Reading(concepts=(concept,), remarks=(remark,))
    if artist is not None:
        return _inferred(concept, "style", f"the artist {artist}")
    return _inferred(concept, "person", str(person))


def _described(concept: Concept) -> Reading | None:
    """A style, something explicit or something that cannot be seen, by the words of its name."""
    key = folded(concept.name)
    senses = nouns().senses(concept.name)
    seen = bool(senses) and nouns().meaning(senses[0]).file in THINGS
    listed = {folded(style) for style in STYLES} | {
        style for style in style_names() if not seen or style.endswith("ist")
    }
    if key in listed or (key.endswith((" style", " art")) and " " in key):
        return _inferred(concept, "style", "a technique or movement")
    if senses and nouns().is_a(senses[0], "artistic movement"):
        return _inferred(concept, "style", "an artistic movement")
    for word in dict.fromkeys((key, *meaningful(key))):
        topic = sensitive().get(word)
        if topic and word not in OBJECTS and (word == key or word not in MILD):
            return _inferred(concept, "explicit", f"{word!r} belongs to {topic!r}")
    files = {nouns().meaning(number).file for number in senses}
    if senses and not files & THINGS and nouns().meaning(senses[0]).file in ABSTRACT:
        return _inferred(concept, "abstract", "it cannot be seen by itself")
    return None


def _common(name: str) -> bool:
    """Whether a name is a common noun; in capital letters, whether it is one that texts use."""
    if name != name.lower():
        return _in_use(name)
    return any(not nouns().meaning(number).instance for number in nouns().senses(name))


def _in_use(name: str) -> bool:
    """Whether a name is above all a common noun, and one that occurs in WordNet's tagged texts."""
    meanings = [nouns().meaning(number) for number in nouns().senses(name)]
    return bool(meanings) and not meanings[0].instance and meanings[0].tagged > 0


def _surnames(name: str) -> Iterable[str]:
    """The last word of a name, alone and with the particles before it ("gogh", "van gogh")."""
    words = folded(name).split()
    first = len(words) - 1
    yield words[-1]
    while first > 0 and words[first - 1] in SMALL_WORDS:
        first -= 1
        yield " ".join(words[first:])


@lru_cache(maxsize=1)
def _artists() -> dict[str, str]:
    """Folded name or surname -> the artist of the public list, the better known where several share it."""
    found = {folded(name): name for name in artists()}
    for name in artists():
        for surname in _surnames(name):
            if len(surname) > 2:
                found.setdefault(surname, name)
    return found


def artist_of(name: str) -> str | None:
    """The artist who is called so: one of the public list by full name or surname, or one whom WordNet knows."""
    if folded(name) in _artists():
        return _artists()[folded(name)]
    if " " in folded(name):
        for key in difflib.get_close_matches(folded(name), _artists(), n=1, cutoff=VERY_NEAR):
            return _artists()[key]
    return _instance(name, MAKERS)


def _instance(name: str, kinds: tuple[str, ...]) -> str | None:
    """A person of one of these kinds whom WordNet knows by this very name, with the longest of the person's names."""
    for number in nouns().numbers.get(folded(name), ()):
        meaning = nouns().meaning(number)
        if meaning.instance and meaning.file == PERSON_FILE and nouns().is_a(number, *kinds):
            return max(meaning.words, key=len)
    return None


def person_of(name: str) -> str | None:
    """Why a name is a person's: someone known is called so, or a given name stands in front of what is no noun."""
    known = {key: person for person in PERSONS for key in (folded(person), *_surnames(person))}
    found = known.get(folded(name)) or _instance(name, ("person",))
    if found is not None:
        return found
    words = folded(name).split()
    if len(words) not in (2, 3) or words[0] not in given_names() or nouns().senses(name):
        return None
    capital = all(word[0].isupper() for word in name.split())
    if capital or not (nouns().senses(words[0]) or nouns().senses(words[-1])):
        return f"{words[0].capitalize()} is a given name"
    return None


def _near(name: str) -> tuple[str, ...]:
    """A remark where a name nobody knows is spelt almost like a preset's or an artist's."""
    if nouns().senses(name):
        return ()
    presets = [*PRESETS, *(concept.name for preset in PRESETS.values() for concept in preset)]
    known = {folded(other): other for other in (*artists(), *PERSONS, *presets)}
    found = difflib.get_close_matches(folded(name), known, n=1, cutoff=NEAR)
    return tuple(f"{name!r} is not known and read as an object; did you mean {known[key]!r}?" for key in found)
