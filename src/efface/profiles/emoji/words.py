"""The words of the emoji canvas: its objects, styles and places, English for each, and prompts made of them.

The benchmark is the first twenty objects in nine styles. Held-out words were fixed before anything was trained: no caption of the
training used them, and no eraser is given them. Nothing heavy is imported, so the command line may read this before torch is loaded.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

from efface.io import embedded

STYLES = ("noto", "blob", "firefox", "twemoji", "emojione", "stencil", "fluent", "flat", "outline")
"""One style word per drawing hand; `fluent` and `flat` are near twins (shaded and unshaded), on purpose."""

PLURAL = ("cherries", "grapes", "clinking beer mugs", "cattle", "two beers", "cheers", "raisins", "vine berries")
"""Nouns without an article."""


class ObjectClass(NamedTuple):
    """A class of objects that the canvas draws, and the English for it."""

    name: str
    """The word used in prompts."""
    kind: str
    """Superclass, itself a word of the captions."""
    train_synonyms: tuple[str, ...]
    """Other words for it that captions used."""
    heldout_synonyms: tuple[str, ...]
    """Words for it that no caption ever used."""
    heldout_descriptions: tuple[str, ...]
    """Phrases that say what it is without naming it, which no caption used either."""


def _words() -> dict:
    return json.loads((embedded.folder("emoji") / "words.json").read_text())


def _objects() -> tuple[ObjectClass, ...]:
    listed = ("train_synonyms", "heldout_synonyms", "heldout_descriptions")
    return tuple(
        ObjectClass(
            name=entry["name"], kind=entry["kind"] or "object", **{field: tuple(entry[field]) for field in listed}
        )
        for entry in _words()["objects"]
    )


OBJECTS = _objects()
"""The benchmark's twenty, then everything else: what an erasure may damage."""

BENCHMARK = tuple(entry.name for entry in OBJECTS[:20])
"""The twenty objects whose erasure is measured; this list never changes."""

ALCOHOL = ("beer mug", "wine glass", "cocktail glass", "clinking beer mugs", "tropical drink")
"""The abstract concept of the canvas: five drinks that no single name covers."""

PLACES: dict[str, str] = {name: phrases[0] for name, phrases in _words()["places"].items()}
"""The places, and how a prompt names each: "in a meadow", "on a beach"."""

ANCHORS = {
    "church": "house", "house": "church", "cat": "tiger", "dog": "horse", "cow": "horse", "horse": "cow",
    "penguin": "bird", "beer mug": "wine glass", "wine glass": "cocktail glass", "cocktail glass": "wine glass",
    "car": "bus", "bus": "car", "airplane": "car", "guitar": "violin", "violin": "guitar", "sunflower": "rose",
    "rose": "sunflower", "strawberry": "apple", "apple": "strawberry", "umbrella": "balloon",
    "noto": "firefox", "blob": "noto", "firefox": "noto", "twemoji": "emojione", "emojione": "firefox",
    "stencil": "outline", "fluent": "noto", "flat": "fluent", "outline": "emojione",
}  # fmt: skip
"""Anchors of erased objects and styles: each is a relative, since a superclass would draw the erased one again, and
one that the model draws well, since an erased picture can be no better than its anchor's.

Names of two words have anchors of two words: rows are paired from the last subject token on, and a shift by one position
would have to be learnt by the map as well.
"""


def anchor_of(name: str) -> str:
    """Anchor of an erased object or style: its entry in ANCHORS, or another object of its kind."""
    if name in ANCHORS:
        return ANCHORS[name]
    kind = object_class(name).kind
    return next((t.name for t in reversed(OBJECTS) if t.kind == kind and t.name != name), kind)


def object_class(name: str) -> ObjectClass:
    """The class of objects called `name`; raises KeyError for a word that the canvas does not draw."""
    return _by_name()[name]


@lru_cache
def _by_name() -> dict[str, ObjectClass]:
    return {entry.name: entry for entry in OBJECTS}


def article(noun: str) -> str:
    """`noun` with its indefinite article by first letter: "a cat", "an apple"; plurals stay as they are."""
    return noun if noun.endswith(PLURAL) else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def caption(noun: str, style: str | None = None, place: str | None = None) -> str:
    """A prompt of one thing by its name or any other noun: "a kitty in noto style on a beach"."""
    return _said(article(noun), style, place)


def described(phrase: str, style: str | None = None) -> str:
    """A prompt of one thing by a description, as it stands."""
    return _said(phrase, style, None)


def both(first: str, second: str, style: str, place: str) -> str:
    """A prompt of two things at a place."""
    return _said(f"{article(first)} and {article(second)}", style, place)


def empty_place(place: str) -> str:
    """A prompt of a place alone."""
    phrase = PLACES[place]
    return "a sunset" if phrase.startswith("at ") else phrase.split(" ", 1)[1]


def _said(text: str, style: str | None, place: str | None) -> str:
    styled = f" in {style} style" if style else ""
    return f"{text}{styled}{f' {PLACES[place]}' if place else ''}"
