"""The canvas's concepts: captions as templates, since a bare word is outside what its text encoder has read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from efface.concepts.concept import Concept, Kind
from efface.errors import UsageError
from efface.profiles.emoji.words import ALCOHOL, BENCHMARK, OBJECTS, STYLES, anchor_of, caption, thing


def object_concept(name: str) -> Concept:
    """An object in every style, a relative in its place; every other object is kept."""
    keep = [text for t in OBJECTS if t.name != name for text in _captions(t.name)]
    aliases = tuple(a for a in thing(name).aliases if a != "alcohol")
    return _concept(name, "object", anchor_of(name), aliases, keep)


def style_concept(name: str) -> Concept:
    """A style on the benchmark's objects, a relative in its place; every other style and unstyled captions are kept."""
    keep = [caption(t.name, style) for t in OBJECTS for style in (None, *STYLES) if style != name]
    anchors = tuple(caption(o, anchor_of(name)) for o in BENCHMARK)
    templates = tuple(caption(o, "{}") for o in BENCHMARK)
    return Concept(name, "style", templates=templates, neutral=anchors, keep=tuple(keep))


def alcohol_concepts() -> tuple[Concept, ...]:
    """The abstract concept: the word itself and the five drinks that it stands for."""
    keep = [text for t in OBJECTS if t.name not in ALCOHOL for text in _captions(t.name)]
    return (
        _concept("alcohol", "abstract", "coffee", (), keep),
        *(_concept(name, "abstract", "ice cream", (), keep) for name in ALCOHOL),
    )


def _captions(noun: str) -> list[str]:
    """A noun alone and in every style."""
    return [caption(noun, style) for style in (None, *STYLES)]


def _concept(name: str, kind: Kind, anchor: str, aliases: tuple[str, ...], keep: list[str]) -> Concept:
    templates = tuple(text.replace(name, "{}", 1) for text in _captions(name))
    return Concept(name, kind, aliases, templates=templates, neutral=tuple(_captions(anchor)), keep=tuple(keep))


def canvas_concepts(name: str, gone: Collection[str] = ()) -> tuple[Concept, ...]:
    """The canvas's concept called `name`.

    Args:
        name: an object or one of its aliases, a style, or "alcohol".
        gone: what is erased beside it, or was before: neither kept nor put in its place, or two concepts whose anchors are
            each other would only change places.

    Raises:
        UsageError: the canvas cannot draw it.
    """
    found = _concepts(name)
    others = set(gone) - {concept.name for concept in found} - {name}
    return tuple(_among(concept, gone) for concept in found) if others else found


def survivor(name: str, gone: Collection[str], domain: Sequence[str]) -> str:
    """What takes the place of a concept when others are gone too: the next anchor down the line that is left, or any."""
    anchor, seen = anchor_of(name), {name}
    while anchor in gone and anchor not in seen:
        seen.add(anchor)
        anchor = anchor_of(anchor)
    if anchor not in gone and anchor != name:
        return anchor
    return next((other for other in domain if other not in gone and other != name), anchor)


def _among(concept: Concept, gone: Collection[str]) -> Concept:
    """A concept that is erased beside others."""
    shown = {caption(t.name, style): (t.name, style) for t in OBJECTS for style in (None, *STYLES)}
    kept = [text for text in concept.keep if not set(shown.get(text, ())) & set(gone)]
    concept = replace(concept, keep=tuple(kept))
    if concept.kind == "style":
        anchor = survivor(concept.name, gone, STYLES)
        return replace(concept, neutral=tuple(caption(o, anchor) for o in BENCHMARK))
    if concept.kind == "object":
        return replace(concept, neutral=tuple(_captions(survivor(concept.name, gone, BENCHMARK))))
    return concept


def _concepts(name: str) -> tuple[Concept, ...]:
    aliases = {alias: t.name for t in OBJECTS for alias in t.aliases}
    if name in STYLES:
        return (style_concept(name),)
    if name == "alcohol":
        return alcohol_concepts()
    if name in {t.name for t in OBJECTS}:
        return (object_concept(name),)
    if name in aliases:
        return (object_concept(aliases[name]),)
    drawn = ", ".join(t.name for t in OBJECTS)
    raise UsageError(
        f"the emoji canvas does not draw {name!r}; it knows the styles {', '.join(STYLES)} and the objects {drawn}."
    )
