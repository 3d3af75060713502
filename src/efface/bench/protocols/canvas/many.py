"""Mode `many`: random draws of the canvas's objects erased at once, with half of the survivors unknown to the erasure.

Draw s erases the first k objects of `random.Random(s).shuffle`, so that its lists are nested. What names an erased object is no
survivor (clinking beer mugs, where the beer mug goes). Of the survivors every second one is known: its captions are retained, and
gates are set against them. Of the others no caption is retained and no prior is read; one of them may still take the place of an
erased one. Methods that learn from pictures have seen all.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import torch

from efface.bench.protocols.canvas.targets import Edit, Target
from efface.concepts.concept import Concept
from efface.concepts.retained import naming
from efface.erasers import ERASERS
from efface.erasers.base import Listed, Retaining
from efface.erasures import Erasure, GatedMap, TextMap
from efface.errors import EffaceError
from efface.models.model import Model
from efface.profiles.emoji.words import OBJECTS, STYLES, caption

NOUNS = tuple(entry.name for entry in OBJECTS)
"""All that the canvas draws."""
DRAWN_STYLES = ("noto", "stencil", "flat")
"""Styles in which they are drawn."""
COUNTS = (1, 5, 10, 20, 40)
"""How many are erased at once."""
QUICK_COUNTS = (5, 20)
SURVIVORS = 2
"""Fewest that must be left: one that is known and one that is not."""


class RefusalError(EffaceError):
    """A method cannot erase a list, and says why: a result, not the end of a run."""


def many_targets(counts: Sequence[int], draws: int) -> list[Target]:
    """A row for every number and draw, the shortest lists first."""
    return [Target("many", (_edit(count, draw),)) for count in counts for draw in range(draws)]


def unknown_of(edit: Edit) -> tuple[str, ...]:
    """Survivors of which the erasure sees no caption."""
    known = edit.known or ()
    return tuple(name for name in survivors(edit.names) if name not in known)


def survivors(erased: Collection[str], nouns: Sequence[str] = NOUNS) -> tuple[str, ...]:
    """Of some objects, in their order, those that are not erased and name nothing that is."""
    concepts = [Concept(name, "object") for name in erased if name]
    contrary = {*erased, *naming(nouns, concepts)}
    return tuple(name for name in nouns if name not in contrary)


def retained_options(method: str, edit: Edit) -> dict[str, Any]:
    """Options by which a method retains the known survivors alone, and reads no prior, which would know all words."""
    config = ERASERS.load(method).Config
    if edit.known is None or not issubclass(config, Retaining):
        return {}
    keep = [caption(name, style) for name in edit.known for style in (None, *STYLES)]
    return {"keep": keep} | ({"prior": "never"} if issubclass(config, Listed) else {})


def identical_share(model: Model, erasure: Erasure, edit: Edit) -> float | None:
    """Share of the drawn prompts without an erased object whose text states an erasure leaves as they are, to the last bit;
    None for erasures that act elsewhere."""
    if not isinstance(erasure, TextMap | GatedMap):
        return None
    prompts = [caption(name, style) for name in survivors(edit.names) for style in DRAWN_STYLES]
    same = []
    for prompt in prompts:
        states = model.projection_inputs(model.encode([prompt]))
        same.append(torch.equal(erasure.map(states), states))
    return sum(same) / len(same)


def _edit(count: int, draw: int) -> Edit:
    order = list(NOUNS)
    random.Random(draw).shuffle(order)
    erased = tuple(order[:count])
    return Edit("objects", erased, known=survivors(erased, order)[::2], draw=draw)
