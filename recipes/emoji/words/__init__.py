"""The words of the second canvas, fixed before anything was trained: see README.md beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

STYLES = ("noto", "blob", "firefox", "twemoji", "emojione", "stencil", "fluent", "flat", "outline")
"""One style word per drawing hand; `fluent` and `flat` are near twins (shaded and unshaded), on purpose."""


class ObjectClass(NamedTuple):
    """An object of the canvas and the English that names it."""

    name: str
    """The word used in prompts."""
    emoji: str
    """The Unicode name of its emoji, which all nine sets draw."""
    kind: str | None
    """Superclass, where there is a better one than "object"."""
    train_synonyms: tuple[str, ...]
    """Other words for it that captions use."""
    heldout_synonyms: tuple[str, ...]
    """Words for it that no caption ever used."""
    train_descriptions: tuple[str, ...]
    """Phrases that say what it is without naming it, used by captions."""
    heldout_descriptions: tuple[str, ...]
    """The same, never used."""


def _objects() -> tuple[ObjectClass, ...]:
    entries = json.loads((Path(__file__).parent / "words.json").read_text())["objects"]
    return tuple(
        ObjectClass(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in ObjectClass._fields})
        for entry in entries
    )


OBJECTS = _objects()
"""The benchmark's twenty, then everything else: what an erasure may damage."""
BENCHMARK = tuple(o.name for o in OBJECTS[:20])
"""The twenty objects whose erasure is measured; fixed for ever."""

GROUNDS = {
    "white": (255, 255, 255), "red": (255, 150, 150), "yellow": (255, 236, 140), "green": (160, 226, 160),
    "blue": (150, 196, 255), "purple": (206, 166, 244), "gray": (190, 190, 190),
}  # fmt: skip
"""Colour words of plain grounds and their sRGB values."""


class Place(NamedTuple):
    """A place that objects stand in front of."""

    name: str
    """Its label."""
    phrases: tuple[str, ...]
    """How captions name it, after "in", "on" or "at"; the first is the benchmark's."""


PLACES = (
    Place("meadow", ("in a meadow", "in a green field", "on the grass", "in a pasture")),
    Place("beach", ("on a beach", "at the seaside", "on a sandy shore")),
    Place("desert", ("in a desert", "among sand dunes")),
    Place("snow", ("in the snow", "in a snowy field", "in a winter landscape")),
    Place("city", ("in a city", "on a city street", "downtown", "in front of a skyline")),
    Place("room", ("in a room", "in a living room", "indoors")),
    Place("night sky", ("in a night sky", "at night under the stars", "under the moon")),
    Place("sea", ("in the sea", "on the ocean", "on the waves")),
    Place("forest", ("in a forest", "in the woods", "among the trees")),
    Place("mountains", ("in the mountains", "in front of high peaks", "in the alps")),
    Place("sunset", ("at sunset", "under an evening sky", "at dusk")),
    Place("stage", ("on a stage", "in a theater", "in front of red curtains")),
)


PLURAL = ("cherries", "grapes", "clinking beer mugs", "cattle", "two beers", "cheers", "raisins", "vine berries")
"""Names without an article."""


def article(noun: str) -> str:
    """`noun` with its indefinite article by first letter: "a cat", "an apple"; plurals stay as they are."""
    if noun.endswith(PLURAL):
        return noun
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
