"""A user's words as concepts: presets by any spelling, artists and persons known as such; every guess is said."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import NamedTuple

from efface.concepts.concept import Concept, Kind
from efface.concepts.names import MILD, OBJECTS, PERSONS, STYLE_WORDS, STYLES, sensitive, style_names
from efface.concepts.nouns import PERSONS as PERSON_FILE
from efface.concepts.nouns import THINGS, nouns
from efface.concepts.people import artist_of, by_name, in_use, known_person, person_of, surnames
from efface.concepts.presets import PRESETS
from efface.concepts.words import as_read, folded, meaningful, singulars, without_possessive

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
UNSEEN = ABSTRACT - {"04"}
"""Those of them that no picture shows even where the word has other meanings."""
NEAR = 0.84
"""Likeness of two spellings (difflib) from which on one may be meant for the other."""
BY_SOMEBODY = (
    r"(?:.* )?(?:style|manner|art|artwork|work|works) of (.+)",
    r"(?:.* )?by (.+)",
    r"(.+?)(?:'s|') (?:style|art|artwork|works|painting|paintings|drawing|drawings)",
    r"(.+) (?:style|art|artwork|works|painting|paintings|drawing|drawings)",
)
"""Phrases that name somebody's style, folded; the group is the name."""


class Reading(NamedTuple):
    """What a user's words were taken for."""

    concepts: tuple[Concept, ...]
    """The concepts; several for a preset."""
    remarks: tuple[str, ...]
    """What was inferred or may have been meant, a sentence each; nothing where the words say it all."""


def read_concept(text: str) -> Reading:
    """What is meant by a name: a preset by its name, an alias or a surname; a concept of the kind that the name tells.

    Letters' case, accents, spaces, plurals and possessives do not matter. A name that is a common noun, too, is an object,
    with a remark where an artist or a person of that name is known.

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
    return (
        _preset(name)
        or _explicit(plain, (folded(without_possessive(name)),))
        or _style_of(plain)
        or _named(plain)
        or _described(plain)
        or Reading(concepts=(plain,), remarks=_unknown(plain.name))
    )


def split_names(text: str) -> tuple[str, ...]:
    """The names in one string: "violence, nudity" and "cat; dog" are two each, as the scripts of UCE and others take them.

    A string that is a preset's, an artist's or a person's name as a whole stays whole.
    """
    pieces = tuple(filter(None, (" ".join(piece.split()) for piece in re.split("[,;\n]", text))))
    whole = " ".join(text.split())
    if len(pieces) < 2:
        return pieces or ("",)
    is_one = _preset(whole) or artist_of(whole) or known_person(whole)
    return (whole,) if is_one else pieces


def _preset(name: str) -> Reading | None:
    """A preset's concept by another name; the words stay as they were typed, since they are what is erased."""
    presets = {folded(concept.name): concept for preset in PRESETS.values() for concept in preset}
    by_surname = {key: concept for concept in PRESETS["artists"] for key in surnames(concept.name)}
    for form in singulars(without_possessive(name)):
        found = presets.get(form) or presets.get(folded(ALIASES.get(form, "")))
        if found is None and not in_use(name):
            found = by_surname.get(form)
        if found is not None:
            concept = replace(found, name=name, aliases=(found.name, *found.aliases))
            return Reading(concepts=(concept,), remarks=(f"{name!r} is read as {found.name}, {_kind_of(concept)}.",))
    return None


def _kind_of(concept: Concept) -> str:
    """A kind in words, with what takes its place where that is a word."""
    kinds = {"object": "an object", "style": "a style, led to 'art'", "person": "a person"}
    return kinds.get(concept.kind, f"an {concept.kind} concept")


def _inferred(concept: Concept, kind: Kind, reason: str) -> Reading:
    """A concept of a kind that its name tells, and the sentence that says so."""
    concept = replace(concept, kind=kind)
    remark = f"{concept.name!r} is read as {_kind_of(concept)} ({reason}); give the kind to say otherwise."
    return Reading(concepts=(concept,), remarks=(remark,))


def _somebody(concept: Concept, kind: Kind, name: str, reason: str) -> Reading:
    """An artist's style, or a person, whose full name is an alias where something else was typed."""
    other = folded(name) != folded(concept.name)
    return _inferred(replace(concept, aliases=(name,)) if other else concept, kind, reason)


def _style_of(concept: Concept) -> Reading | None:
    """The style of an artist in words of its own ("in the style of Monet", "a painting by van Gogh")."""
    for pattern in BY_SOMEBODY:
        match = re.fullmatch(pattern, folded(concept.name))
        artist = artist_of(without_possessive(match[1])) if match and not in_use(match[1]) else None
        if artist is not None:
            return _somebody(concept, "style", artist, f"the artist {artist}")
    return None


def _named(concept: Concept) -> Reading | None:
    """An artist or a person whose name it is; a common noun of that name is an object, and the remark asks."""
    name = without_possessive(concept.name)
    artist, person = artist_of(name), person_of(name)
    if artist is None and person is None:
        return None
    small = name == name.lower()
    is_noun = any(not nouns().meaning(number).instance for number in nouns().senses(name))
    # Tokenizers do not see capital letters: somebody known by a name that no text uses as a noun is meant by small ones too.
    if in_use(name) or (small and is_noun and not known_person(name)):
        if small and in_use(name):
            return None
        who = f"the artist {artist}" if artist else str(person)
        remark = f"{concept.name!r} is read as an object; if {who} is meant, give the kind ({'style' if artist else 'person'})."
        return Reading(concepts=(concept,), remarks=(remark,))
    if artist is not None:
        return _somebody(concept, "style", artist, f"the artist {artist}")
    known = known_person(name)
    return _somebody(concept, "person", known, known) if known else _inferred(concept, "person", str(person))


def _explicit(concept: Concept, words: tuple[str, ...]) -> Reading | None:
    """Something explicit, by one of these words, which are folded."""
    key = folded(without_possessive(concept.name))
    for word in words:
        for form in singulars(word):
            topic = sensitive().get(form)
            # A killer whale is an animal by a name of its own; nudes in pictures are nudity all the same.
            if word != key and topic != "nudity" and _is_thing(nouns().numbers.get(key, [])):
                continue
            if topic and form not in OBJECTS and (word == key or form not in MILD):
                return _inferred(concept, "explicit", f"{form!r} belongs to {topic!r}")
    return None


def _described(concept: Concept) -> Reading | None:
    """A style, something explicit or something that cannot be seen, by the words of its name."""
    name = without_possessive(concept.name)
    key = folded(name)
    senses = nouns().senses(name)
    if _is_style(key) or re.fullmatch(r"(?:.* )?(?:style|manner) of .+|.+ (?:style|art)", key):
        return _inferred(concept, "style", "a technique or movement")
    if senses and not _is_thing(senses) and nouns().is_a(senses[0], "artistic movement"):
        return _inferred(concept, "style", "an artistic movement")
    explicit = _explicit(concept, meaningful(key))
    if explicit is not None:
        return explicit
    return _inferred(concept, "abstract", "it cannot be seen by itself") if _is_abstract(senses) else None


def _is_style(key: str) -> bool:
    """Whether a folded name is a technique's or a movement's, and not above all a thing's."""
    senses = nouns().senses(key)
    seen = bool(senses) and nouns().meaning(senses[0]).file in THINGS
    listed = {folded(style) for style in STYLES} | {
        style for style in style_names() if not seen or style.endswith("ist")
    }
    forms = [*singulars(key), *singulars(re.sub(r" (?:arts?|artworks?|paintings?|drawings?|pictures?)$", "", key))]
    return any(form.replace("colour", "color") in listed or form in listed for form in forms)


def _is_thing(senses: list[int]) -> bool:
    """Whether a word has a meaning that can be seen."""
    return any(nouns().meaning(number).file in THINGS for number in senses)


def _is_abstract(senses: list[int]) -> bool:
    """Whether a word is used for what no picture shows, and for nothing to be seen but, more seldom, for a person."""
    meanings = [nouns().meaning(number) for number in senses]
    if not meanings or meanings[0].file not in ABSTRACT:
        return False
    seen = [meaning for meaning in meanings if meaning.file in THINGS]
    rather = meanings[0].file in UNSEEN and meanings[0].tagged > 4 * sum(meaning.tagged for meaning in seen)
    return not seen or (rather and all(meaning.file == PERSON_FILE for meaning in seen))


def _unknown(name: str) -> tuple[str, ...]:
    """A remark where nobody knows a name: what it is spelt almost like, or that it may be somebody's."""
    if nouns().senses(name):
        return ()
    presets = [*PRESETS, *(concept.name for preset in PRESETS.values() for concept in preset)]
    known = by_name() | {folded(other): other for other in (*PERSONS, *presets)}
    near = difflib.get_close_matches(folded(name), known, n=1, cutoff=NEAR)
    if near:
        return (f"{name!r} is not known and read as an object; did you mean {known[near[0]]!r}?",)
    words = [word for word in meaningful(name) if word not in STYLE_WORDS]
    if words and not nouns().senses(words[-1]):
        return (f"{name!r} is not known and read as an object; if it is an artist or a person, give the kind.",)
    return ()
