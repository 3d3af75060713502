"""The canvas's concepts: captions as templates, since a bare word is outside what its text encoder has read."""

from __future__ import annotations

from efface.canvas.words import ALCOHOL, BENCHMARK, OBJECTS, STYLES, Thing, caption, thing
from efface.concept import Concept
from efface.errors import UsageError


def object_concept(name: str) -> Concept:
    """An object in every style, its superclass in its place; everything else is kept."""
    entry = thing(name)
    captions = [caption(name), *(caption(name, style) for style in STYLES)]
    anchors = [caption(entry.kind), *(caption(entry.kind, style) for style in STYLES)]
    templates = tuple(text.replace(name, "{}", 1) for text in captions)
    keep = [caption(t.name) for t in OBJECTS if t.name != name]
    keep += [caption(t.name, style) for t in OBJECTS if t.name != name for style in STYLES]
    return Concept(name, "object", tuple(a for a in entry.aliases if a != "alcohol"), None, templates, tuple(anchors), tuple(keep))


def style_concept(name: str) -> Concept:
    """A style on the benchmark's objects, no style in its place; other styles and unstyled captions are kept."""
    templates = tuple(caption(o, "{}") for o in BENCHMARK)
    anchors = tuple(caption(o) for o in BENCHMARK)
    keep = [caption(t.name, style) for t in OBJECTS for style in STYLES if style != name]
    keep += [caption(t.name) for t in OBJECTS]
    return Concept(name, "style", (), None, templates, anchors, tuple(keep))


def alcohol_concepts() -> tuple[Concept, ...]:
    """The abstract concept: the word itself and the five drinks that it stands for."""
    word = object_concept_of(Thing("alcohol", "", "drink"))
    return (word, *(object_concept(name) for name in ALCOHOL))


def object_concept_of(entry: Thing) -> Concept:
    """A word of the captions that is no object of the canvas, in every style."""
    templates = tuple(text.replace(entry.name, "{}", 1) for text in (caption(entry.name), *(caption(entry.name, s) for s in STYLES)))
    anchors = (caption(entry.kind), *(caption(entry.kind, s) for s in STYLES))
    return Concept(entry.name, "abstract", (), None, templates, anchors)


def canvas_concepts(name: str) -> tuple[Concept, ...]:
    """The canvas's concept called `name`; raises UsageError for a word that it cannot draw."""
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
    raise UsageError(f"the emoji canvas does not draw {name!r}; it knows the styles {', '.join(STYLES)} and the objects {drawn}.")
