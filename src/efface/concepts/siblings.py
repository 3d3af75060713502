"""What stands beside a concept and is not it: other kinds of the same, other artists, other styles, other persons."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from efface.concepts.concept import Concept
from efface.concepts.names import PEOPLE, PERSONS, STYLES, artists, sensitive, style_names
from efface.concepts.nouns import PERSONS as PERSON_FILE
from efface.concepts.nouns import THINGS, Nouns, nouns
from efface.concepts.same import Same, same
from efface.concepts.words import folded, head, meaningful, whole_words

LARGEST = 1300
"""Meanings below something that is still one sort of thing: mammals and vehicles are, devices and organisms are not."""
ENOUGH = 48
"""Siblings after which no wider sort is looked at."""
MOST = 96
"""Siblings of an object, of which the best known are taken."""


@lru_cache(maxsize=256)
def siblings(concept: Concept) -> tuple[str, ...]:
    """Names of what stands beside a concept, the closest and best known first; empty where nothing is known of it.

    Objects: kinds of the narrowest sort that holds enough of them. Styles: other artists for an artist, other techniques
    and movements for one of those. Persons: others, and prompts of anybody. Explicit and abstract concepts have none.
    """
    own = same(concept)
    if concept.kind == "object":
        found = object_siblings(concept.name, own)
    elif concept.kind == "style":
        found = artists() if is_artist(concept) else STYLES
    elif concept.kind == "person":
        # Prompts of anybody and names in turn: either is worth keeping, whatever the text space says first.
        found = tuple(name for pair in zip(PEOPLE, PERSONS, strict=False) for name in pair) + PERSONS[len(PEOPLE) :]
    else:
        found = ()
    return tuple(name for name in dict.fromkeys(found) if whole_words(name) and not own.excludes(name))


def is_artist(concept: Concept) -> bool:
    """Whether a style is an artist's: every style that is neither a technique or movement nor called a style or an art."""
    key = folded(concept.name)
    if {folded(name) for name in (concept.name, *concept.aliases)} & {folded(name) for name in artists()}:
        return True
    table = nouns()
    movement = any(table.is_a(n, "artistic movement", "art", "artistic style") for n in table.senses(concept.name))
    called = key.endswith((" style", " art", " painting", "ism", "core", "punk"))
    return not (movement or called or key in style_names())


def object_siblings(name: str, own: Same) -> tuple[str, ...]:
    """Other kinds of the sorts that hold an object, from the narrowest outwards until there are enough."""
    table = nouns()
    start = thing(name)
    if start is None:
        return ()
    if table.meaning(start).file == PERSON_FILE:
        return PEOPLE
    found: list[str] = []
    seen = {start}
    level = [start]
    while level and len(found) < ENOUGH:
        level = [above for number in level for above in table.meaning(number).above if above not in seen]
        sorts = [number for number in level if sum(1 for _ in table.descend([number])) <= LARGEST]
        new = [name for number in sorts for name in _kinds(table, number, seen, own)]
        found += [name for name in dict.fromkeys(new) if name not in found]
        seen.update(level)
    return tuple(found[:MOST])


def thing(name: str) -> int | None:
    """The most frequent meaning of a name that can be seen, no person's unless texts speak of that more often (a "hot dog"
    is to be eaten); of its last words where the whole is unknown."""
    words = folded(head(name)).split()
    for first in range(len(words)):
        seen = [n for n in nouns().senses(" ".join(words[first:])) if nouns().meaning(n).file in THINGS]
        if seen:
            told = nouns().meaning(seen[0])
            rather = (n for n in seen if nouns().meaning(n).file != PERSON_FILE)
            other = next((n for n in rather if nouns().meaning(n).tagged >= told.tagged), None)
            return seen[0] if other is None or told.file != PERSON_FILE else other
    return None


def _kinds(table: Nouns, sort: int, seen: set[int], own: Same) -> Iterator[str]:
    """Names of the kinds of a sort that were not seen before, the best known first."""
    depth = {sort: 0}
    known: list[tuple[float, str]] = []
    for number in table.descend([sort]):
        for kind in table.below.get(number, ()):
            depth.setdefault(kind, depth[number] + 1)
        if number in seen or number == sort:
            continue
        seen.add(number)
        name = _name(table, number)
        if name and not own.excludes(name):
            known.append((-_fame(table, number) + depth[number], name))
    yield from (name for _, name in sorted(known, key=lambda pair: pair[0]))


def _name(table: Nouns, number: int) -> str | None:
    """The first word of a meaning, where it is what that word usually means among things that can be seen."""
    meaning = table.meaning(number)
    name = meaning.words[0]
    latin = meaning.file in ("05", "20") and " " in name and name[0].isupper()
    if meaning.instance or latin or meaning.file not in THINGS - {PERSON_FILE} or not whole_words(name):
        return None
    usual = meaning.ranks[0] == 1 or (meaning.ranks[0] <= 3 and meaning.tagged >= 2)
    if any(word in sensitive() for word in meaningful(name)) or not usual or thing(name) != number:
        return None
    return name


def _fame(table: Nouns, number: int) -> float:
    """How well known a meaning is: tagged in texts, with kinds of its own, one short word."""
    meaning = table.meaning(number)
    kinds = len(table.below.get(number, ()))
    return (
        min(meaning.tagged, 6) + min(kinds, 4) / 2 + 2 * (" " not in meaning.words[0]) - 2 * meaning.words[0].istitle()
    )
