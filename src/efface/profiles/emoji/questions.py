"""What may be asked of the emoji canvas: an object by its name, by words that no training used, beside another one, or none."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from efface.profiles.emoji.words import (
    BENCHMARK,
    OBJECTS,
    PLACES,
    STYLES,
    both,
    caption,
    described,
    empty_place,
    object_class,
)

Role = Literal["name", "synonym", "description", "scene", "empty"]


class Asked(NamedTuple):
    """A picture that is asked for."""

    role: Role
    prompt: str
    seed: int
    things: tuple[str, ...]
    """Objects that it should show, the erased one first where there is one."""
    style: str = ""
    place: str = ""


def by_name(pairs: Sequence[tuple[str, str]], seeds: Iterable[int]) -> list[Asked]:
    """An object in a style, by name."""
    seeds = list(seeds)
    return [Asked("name", caption(*pair), seed, pair[:1], pair[1]) for pair in pairs for seed in seeds]


def by_own_name(concept: str) -> list[Asked]:
    """An object in every style, three seeds each, or a style on every object of the benchmark: enough for a figure of it alone."""
    if concept in BENCHMARK:
        return by_name([(concept, style) for style in STYLES], range(100, 103))
    return by_name([(thing, concept) for thing in BENCHMARK], range(100, 102))


def by_words(thing: str, role: Literal["synonym", "description"], seeds: int = 1) -> list[Asked]:
    """An object in every style, by each of its held-out synonyms or descriptions."""
    words = object_class(thing)
    texts = words.heldout_synonyms if role == "synonym" else words.heldout_descriptions
    say = caption if role == "synonym" else described
    return [Asked(role, say(t, s), 1000 + k, (thing,), s) for t in texts for s in STYLES for k in range(seeds)]


def in_scenes(thing: str, count: int) -> list[Asked]:
    """An object and another one at a place, each time others, which stands first in half of them."""
    rng, asked = random.Random(f"scenes of {thing}"), []
    others = [entry.name for entry in OBJECTS if entry.name != thing]
    for number in range(count):
        other, style, place = rng.choice(others), rng.choice(STYLES), rng.choice(list(PLACES))
        pair = (thing, other) if number % 2 == 0 else (other, thing)
        asked.append(Asked("scene", both(*pair, style, place), 2000 + number, (thing, other), style, place))
    return asked


def empties() -> list[Asked]:
    """Every place alone."""
    return [Asked("empty", empty_place(place), 3000 + n, (), place=place) for n, place in enumerate(PLACES)]
