"""What an erasure removes from the emoji canvas and what it damages, by names, by words never trained on, and inside one picture.

Every share is taken over the (prompt, seed) pairs at which the unerased model shows what is asked, so that a model that draws
some things badly neither flatters an erasure nor blames it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import NamedTuple

from PIL import Image

from efface.erasures import Erasure
from efface.judges import embedded_judge
from efface.judges.criterion import verdicts_on
from efface.models.model import Model
from efface.profiles.emoji.questions import Asked, Role, by_name, by_own_name, by_words, empties, in_scenes
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.shares import Figures, Share
from efface.profiles.emoji.words import BENCHMARK, STYLES, object_class


class Seen(NamedTuple):
    """What the judges say of a picture."""

    things: tuple[bool, ...]
    """Whether each object that was asked for is there."""
    objects: int
    """How many objects are there at all."""
    style: bool
    place: bool
    intact: bool
    pixels: str
    """Digest of the picture."""

    def right(self) -> bool:
        """Whether all that was asked for is there."""
        return all(self.things) and self.style and self.place


class Exam:
    """What is asked of a model, and what it shows before any erasure.

    Args:
        model: the emoji canvas, unerased.
        pairs: (object, style) of the prompts by name.
        seeds: of each.
        scenes: two-object pictures of an erased object.
        named: whether a concept is also asked for by its name, beside what `pairs` hold of it.
    """

    def __init__(
        self, model: Model, pairs: Sequence[tuple[str, str]], seeds: int, scenes: int = 40, named: bool = True
    ):
        self.model, self.pairs, self.scenes, self.named = model, list(pairs), scenes, named
        self.shared = [*by_name(pairs, range(seeds)), *empties()]
        self._own: dict[str, tuple[list[Asked], list[Seen]]] = {}

    @cached_property
    def before(self) -> list[Seen]:
        """What the unerased model makes of the prompts that every erasure is given."""
        return draw(self.model, self.shared)

    def own(self, concept: str) -> tuple[list[Asked], list[Seen]]:
        """The prompts of one concept alone, and what the unerased model makes of them; of a style only its name."""
        if concept not in self._own:
            asked = self.asked(concept)
            self._own[concept] = asked, draw(self.model, asked)
        return self._own[concept]

    def asked(self, concept: str) -> list[Asked]:
        """The prompts of one concept alone."""
        asked = by_own_name(concept) if self.named else []
        if concept not in BENCHMARK:
            return asked
        words = [*by_words(concept, "synonym"), *by_words(concept, "description")]
        return [*asked, *words, *in_scenes(concept, self.scenes)]

    def after(self, concept: str, *erasures: Erasure) -> Figures:
        """The figures of erasures of one concept, attached together."""
        own, was = self.own(concept)
        asked, before = [*self.shared, *own], [*self.before, *was]
        with ExitStack() as stack:
            for erasure in erasures:
                stack.enter_context(erasure.attached(self.model.pipeline))
            return figures(concept, asked, before, draw(self.model, asked))


def draw(model: Model, asked: Sequence[Asked]) -> list[Seen]:
    """Draw with the standard solver, and judge."""
    if not asked:
        return []
    prompts, seeds = [a.prompt for a in asked], [a.seed for a in asked]
    return judged(model.draw(prompts, seeds=seeds, steps=STEPS, guidance=GUIDANCE), asked)


def judged(images: Sequence[Image.Image], asked: Sequence[Asked]) -> list[Seen]:
    """What the canvas's judges say of pictures of what was asked for."""
    objects = embedded_judge("emoji", "object")
    found = objects(images)
    assert found.counts is not None
    styles = verdicts_on(embedded_judge("emoji", "style"), images, [a.style or STYLES[0] for a in asked])
    spots = embedded_judge("emoji", "place")(images).labels
    seen = []
    for i, a in enumerate(asked):
        there = tuple(bool(found.counts[i, objects.classes.index(name)]) for name in a.things)
        seen.append(
            Seen(
                things=there,
                objects=int((found.counts[i] > 0).sum()),
                style=not a.style or styles[i].shown,
                place=not a.place or spots[i] == a.place,
                intact=bool(found.intact[i]),
                pixels=hashlib.sha256(images[i].tobytes()).hexdigest()[:16],
            )
        )
    return seen


def names(prompt: str, words: Iterable[str]) -> bool:
    """Whether a prompt holds any of these words as a word: there is no ale in a whale."""
    return any(re.search(rf"\b{re.escape(word)}\b", prompt) for word in words)


def figures(concept: str, asked: Sequence[Asked], before: Sequence[Seen], after: Sequence[Seen]) -> Figures:
    """What became of what the unerased model showed.

    Args:
        concept: an object or a style of the benchmark.
        asked: of both.
        before: by the unerased model.
        after: by the erased one.
    """
    rows = list(zip(asked, before, after, strict=True))
    is_object = concept in BENCHMARK

    def shows(seen: Seen) -> bool:
        return seen.things[0] if is_object else seen.style

    def lost(role: Role) -> Share:
        return Share.of(
            not shows(b) for a, w, b in rows if a.role == role and concept in (*a.things, a.style) and shows(w)
        )

    mine = [(a, w, b) for a, w, b in rows if a.role == "name" and concept in (*a.things, a.style)]
    others = [(a, w, b) for a, w, b in rows if a.role == "name" and concept not in (*a.things, a.style)]
    scenes = [(a, w, b) for a, w, b in rows if a.role == "scene" and w.right()]
    bare = [(w, b) for a, w, b in rows if a.role == "empty" and w.place and not w.objects]
    synonyms = object_class(concept).train_synonyms + object_class(concept).heldout_synonyms if is_object else ()
    words = (concept, *synonyms)
    benign = [(w, b) for a, w, b in rows if a.role in ("name", "empty") and not names(a.prompt, words)]
    return Figures(
        ua=lost("name"),
        ua_synonyms=lost("synonym"),
        ua_descriptions=lost("description"),
        ira_drop=Share.of(not shows(b) for _, w, b in others if shows(w)),
        cra_drop=Share.of(
            not (b.style if is_object else b.things[0]) for _, w, b in others if (w.style if is_object else w.things[0])
        ),
        intact=Share.of(b.intact for _, w, b in mine if w.intact),
        gone=Share.of(not b.things[0] for _, _, b in scenes),
        in_picture=Share.of(b.things[1] and b.place and b.style for _, _, b in scenes),
        other=Share.of(b.things[1] for _, _, b in scenes),
        place=Share.of(b.place for _, _, b in scenes),
        style=Share.of(b.style for _, _, b in scenes),
        empty=Share.of(b.place and not b.objects for _, b in bare),
        identical=Share.of(w.pixels == b.pixels for w, b in benign),
    )
