"""Concepts of the emoji canvas: captions as templates, a relative as the anchor, the other captions and the empty places kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from efface.concepts.concept import Concept, Kind
from efface.concepts.words import as_read
from efface.errors import UsageError
from efface.profiles.emoji.words import (
    ALCOHOL,
    BENCHMARK,
    OBJECTS,
    PLACES,
    STYLES,
    anchor_of,
    caption,
    empty_place,
    object_class,
)


def object_concept(name: str) -> Concept:
    """An object in every style, a relative in its place; every other object is kept."""
    keep = [text for t in OBJECTS if t.name != name for text in _captions(t.name)]
    return _concept(name, "object", anchor_of(name), object_class(name).train_synonyms, keep)


def style_concept(name: str) -> Concept:
    """A style on the benchmark's objects, a relative in its place; every other style and unstyled captions are kept."""
    keep = [caption(t.name, style) for t in OBJECTS for style in (None, *STYLES) if style != name]
    anchors = tuple(caption(o, anchor_of(name)) for o in BENCHMARK)
    templates = tuple(caption(o, "{}") for o in BENCHMARK)
    return Concept(name, "style", templates=templates, neutral=anchors, keep=(*keep, *_places()))


def alcohol_concepts() -> tuple[Concept, ...]:
    """The abstract concept: the word itself and the five drinks that it stands for."""
    keep = [text for t in OBJECTS if t.name not in ALCOHOL for text in _captions(t.name)]
    return (
        _concept("alcohol", "abstract", "coffee", (), keep),
        *(_concept(name, "abstract", "ice cream", (), keep) for name in ALCOHOL),
    )


def _captions(noun: str) -> list[str]:
    """Captions of a noun without a style and in every style."""
    return [caption(noun, style) for style in (None, *STYLES)]


def _places() -> tuple[str, ...]:
    """Every place alone."""
    return tuple(map(empty_place, PLACES))


def _concept(name: str, kind: Kind, anchor: str, aliases: tuple[str, ...], keep: list[str]) -> Concept:
    templates = tuple(text.replace(name, "{}", 1) for text in _captions(name))
    return Concept(name, kind, aliases, templates=templates, neutral=tuple(_captions(anchor)), keep=(*keep, *_places()))


def emoji_concepts(name: str, erased: Collection[str] = ()) -> tuple[Concept, ...]:
    """The canvas's concept called `name`.

    Args:
        name: an object or any of its listed synonyms, a style, or "alcohol".
        erased: concepts that are erased beside it, or were before; they are neither retained nor used as anchors, since two
            concepts that are each other's anchors would only change places.

    Raises:
        UsageError: the canvas cannot draw it.
    """
    concepts = _concepts(name)
    others = set(erased) - {concept.name for concept in concepts} - {name}
    return tuple(_beside(concept, erased) for concept in concepts) if others else concepts


def remaining_anchor(name: str, erased: Collection[str], domain: Sequence[str]) -> str:
    """The anchor of a concept that is erased beside others: the first along its chain of anchors that is not erased, else
    the first of the domain that is not."""
    anchor = anchor_of(name)
    visited = {name}
    while anchor in erased and anchor not in visited:
        visited.add(anchor)
        anchor = anchor_of(anchor)
    if anchor not in erased and anchor != name:
        return anchor
    return next((other for other in domain if other not in erased and other != name), anchor)


def _beside(concept: Concept, erased: Collection[str]) -> Concept:
    """A concept whose retained prompts and anchor avoid what is erased beside it."""
    shown = {caption(t.name, style): (t.name, style) for t in OBJECTS for style in (None, *STYLES)}
    retained = [text for text in concept.keep if not set(shown.get(text, ())) & set(erased)]
    concept = replace(concept, keep=tuple(retained))
    if concept.kind == "style":
        anchor = remaining_anchor(concept.name, erased, STYLES)
        return replace(concept, neutral=tuple(caption(o, anchor) for o in BENCHMARK))
    if concept.kind == "object":
        return replace(concept, neutral=tuple(_captions(remaining_anchor(concept.name, erased, BENCHMARK))))
    return concept


def _concepts(name: str) -> tuple[Concept, ...]:
    name = as_read(name)
    synonyms = {as_read(word): t.name for t in OBJECTS for word in (*t.train_synonyms, *t.heldout_synonyms)}
    if name in STYLES:
        return (style_concept(name),)
    if name == "alcohol":
        return alcohol_concepts()
    if name in {t.name for t in OBJECTS}:
        return (object_concept(name),)
    if name in synonyms:
        return (object_concept(synonyms[name]),)
    drawn = ", ".join(t.name for t in OBJECTS)
    raise UsageError(
        f"the emoji canvas does not draw {name!r}; it knows the styles {', '.join(STYLES)} and the objects {drawn}."
    )
