"""Concepts of the scenes: the emoji canvas's, with the aliases that captions used, and with the places among what is kept."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from efface.concepts.concept import Concept
from efface.concepts.words import as_read
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.words import OBJECTS
from efface.profiles.scenes.words import empty_place, places, words_of


def scene_concepts(name: str, erased: Collection[str] = ()) -> tuple[Concept, ...]:
    """The scenes' concept called `name`.

    Args:
        name: an object or any of its listed synonyms, a style, or "alcohol".
        erased: concepts that are erased beside it, or were before; neither retained nor used as anchors.

    Raises:
        UsageError: the scenes cannot draw it.
    """
    return tuple(_here(concept) for concept in emoji_concepts(_object_called(as_read(name)), erased))


def _object_called(name: str) -> str:
    for entry in OBJECTS:
        words = words_of(entry.name)
        if name in map(as_read, (*words.train_synonyms, *words.heldout_synonyms)):
            return entry.name
    return name


def _here(concept: Concept) -> Concept:
    """A concept without held-out words, and with empty places kept."""
    known = {entry.name for entry in OBJECTS}
    aliases = words_of(concept.name).train_synonyms if concept.kind == "object" and concept.name in known else ()
    return replace(concept, aliases=aliases, keep=(*concept.keep, *(empty_place(place) for place in places())))
