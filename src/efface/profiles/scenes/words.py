"""What may be said of the scenes' objects, and the places that they stand at; the objects and styles are the emoji canvas's.

Held-out words were fixed before anything was trained: no caption of the training used them, and no eraser is given them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import NamedTuple

from efface.io import embedded
from efface.profiles.emoji.words import article


class Words(NamedTuple):
    """English for one object."""

    train_synonyms: tuple[str, ...]
    """Other words for it that captions used."""
    heldout_synonyms: tuple[str, ...]
    """Words for it that no caption ever used."""
    heldout_descriptions: tuple[str, ...]
    """Phrases that say what it is without naming it, which no caption used either."""


@lru_cache
def words_of(name: str) -> Words:
    """The words of an object; raises KeyError for what the scenes do not draw."""
    entry = {entry["name"]: entry for entry in _file()["objects"]}[name]
    return Words(*(tuple(entry[field]) for field in Words._fields))


@lru_cache
def places() -> dict[str, str]:
    """The places, and how a prompt names each: "in a meadow", "on a beach"."""
    return {name: phrases[0] for name, phrases in _file()["places"].items()}


def empty_place(place: str) -> str:
    """A prompt of a place alone."""
    phrase = places()[place]
    return "a sunset" if phrase.startswith("at ") else phrase.split(" ", 1)[1]


def named(noun: str, style: str | None = None, place: str | None = None) -> str:
    """A prompt of one thing by any noun or description: "a kitty in noto style on a beach"."""
    return _said(noun if " " in noun and noun.split(" ", 1)[0] in DETERMINERS else article(noun), style, place)


def described(description: str, style: str | None = None) -> str:
    """A prompt of one thing by a description, as it stands."""
    return _said(description, style, None)


def both(first: str, second: str, style: str, place: str) -> str:
    """A prompt of two things at a place."""
    return _said(f"{article(first)} and {article(second)}", style, place)


DETERMINERS = ("a", "an", "the")
"""What a noun phrase begins with that needs no article."""


def _said(text: str, style: str | None, place: str | None) -> str:
    styled = f" in {style} style" if style else ""
    return f"{text}{styled}{f' {places()[place]}' if place else ''}"


@lru_cache
def _file() -> dict:
    return json.loads((embedded.folder("scenes") / "words.json").read_text())
