"""The ways of the canvas's protocol: one concept at a time, pairs of object and style, one after the other, several together.

They follow UnlearnCanvas (arXiv 2402.11846), which erases single concepts, combinations of style and object, and six
styles in a row. Lists of any length are in `many`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from efface.concepts.concept import Concept
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, anchor_of, caption

Mode = Literal["single", "pairs", "sequential", "together", "many"]
Kind = Literal["objects", "styles", "pairs"]

KINDS: dict[Kind, tuple[str, ...]] = {"objects": BENCHMARK, "styles": STYLES}
SEQUENCES: dict[Kind, tuple[str, ...]] = {
    "objects": ("cat", "cow", "car", "guitar", "sunflower", "strawberry"),
    "styles": ("noto", "blob", "firefox", "emojione", "stencil", "fluent"),
}
"""Erased in this order; no anchor is among those erased before."""
TOGETHER: dict[Kind, tuple[str, ...]] = {
    "objects": BENCHMARK[::2],
    "styles": tuple(style for style in STYLES if style != "twemoji"),
}
"""Erased by one erasure: ten of twenty objects, eight of nine styles."""


class Edit(NamedTuple):
    """One erasure that a run makes."""

    kind: Kind
    names: tuple[str, ...]
    """What it erases: objects, styles, or one object and one style whose pair is erased."""
    before: tuple[str, ...] = ()
    """What was erased before it: neither kept nor put in its place."""
    known: tuple[str, ...] | None = None
    """Objects that are retained; None is what the concepts themselves retain."""
    draw: int | None = None
    """Number of the random draw that `names` are from, where they are."""

    @property
    def label(self) -> str:
        """Name of the erasure's file, without its ending."""
        if self.draw is not None:
            words = f"{len(self.names)} of {len(OBJECTS)} draw {self.draw}"
        elif self.kind == "pairs":
            words = " in ".join(self.names)
        elif len(self.names) > 1:
            words = f"{self.names[0]} and {len(self.names) - 1} more {self.kind}"
        else:
            words = " ".join([*self.names, *(["after"] if self.before else []), *self.before])
        return words.replace(" ", "-")


class Target(NamedTuple):
    """One row of the table: what is erased from the model, in the order in which erasures are attached."""

    mode: Mode
    edits: tuple[Edit, ...]

    @property
    def kind(self) -> Kind:
        """Kind of everything that is erased."""
        return self.edits[0].kind

    @property
    def gone(self) -> tuple[str, ...]:
        """Everything that is erased."""
        return tuple(name for edit in self.edits for name in edit.names)

    @property
    def title(self) -> str:
        """What stands in the table."""
        first = self.edits[0]
        if first.draw is not None:
            return f"{len(first.names)} of {len(OBJECTS)}, draw {first.draw}"
        return f"{' in '.join(self.gone)} style" if self.kind == "pairs" else ", ".join(self.gone)


def targets_of(mode: Mode, concepts: dict[Kind, tuple[str, ...]], *, quick: bool) -> list[Target]:
    """The rows of a run in any mode but `many`; `quick` takes every fourth pair, and half of a sequence.

    Args:
        mode: what is erased together.
        concepts: erased one at a time in mode `single`.
        quick: fewer.
    """
    if mode == "single":
        return [Target(mode, (Edit(kind, (name,)),)) for kind, names in concepts.items() for name in names]
    if mode == "pairs":
        return [Target(mode, (Edit("pairs", pair),)) for pair in PAIRS[:: 4 if quick else 1]]
    if mode == "together":
        return [Target(mode, (Edit(kind, names),)) for kind, names in TOGETHER.items()]
    targets = []
    for kind, names in SEQUENCES.items():
        row = tuple(Edit(kind, (name,), names[:i]) for i, name in enumerate(names[:3] if quick else names))
        targets += [Target(mode, row[: i + 1]) for i in range(len(row))]
    return targets


def concepts_of(edit: Edit) -> tuple[Concept, ...]:
    """What an erasure is made of; nothing that is erased with it or was before is kept or takes its place."""
    if edit.kind == "pairs":
        return (pair_concept(*edit.names),)
    gone = (*edit.before, *edit.names)
    return tuple(concept for name in edit.names for concept in emoji_concepts(name, gone))


def pair_concept(thing: str, style: str) -> Concept:
    """An object in one style alone, a related style in its place; every other caption is kept.

    The style takes the other's place, not the object: the text encoder is causal, so that the state of the object's word
    is the same in every style.
    """
    name = f"{thing} in {style}"
    words = caption(thing, style)
    keep = (caption(t.name, s) for t in OBJECTS for s in (None, *STYLES))
    return Concept(
        name, "style", templates=(words.replace(name, "{}"),), neutral=(caption(thing, anchor_of(style)),),
        keep=tuple(text for text in keep if text != words),
    )  # fmt: skip


PAIRS = tuple((thing, STYLES[i % len(STYLES)]) for i, thing in enumerate(BENCHMARK))
"""Erased one at a time in mode `pairs`: every benchmark object in one style, twenty of the 180 (UnlearnCanvas: 50)."""
