"""What an erasure removes from the scenes and what it damages, by names, by words never trained on, and inside one picture.

Every share is taken over the (prompt, seed) pairs at which the unerased model shows what is asked, so that a model that draws
some things badly neither flatters an erasure nor blames it.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Literal, NamedTuple

from PIL import Image

from efface.erasures import Erasure
from efface.judges import embedded_judge
from efface.judges.criterion import verdicts_on
from efface.models.model import Model
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, caption
from efface.profiles.scenes.settings import GUIDANCE, STEPS
from efface.profiles.scenes.words import both, described, empty_place, named, places, words_of

Role = Literal["name", "synonym", "description", "scene", "empty"]
FEWEST = 20
"""Pictures that a share needs to be a figure."""
GONE = 0.9
"""How often the erased object must be gone from two-object pictures for what is left of them to be a figure."""


class Asked(NamedTuple):
    """A picture that is asked for."""

    role: Role
    prompt: str
    seed: int
    things: tuple[str, ...]
    """Objects that it should show, the erased one first where there is one."""
    style: str = ""
    place: str = ""


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


class Share(NamedTuple):
    """Hits among pictures; shares of several erasures are added before they become a figure."""

    hits: int
    pictures: int

    @property
    def percent(self) -> float | None:
        """None for fewer pictures than `FEWEST`."""
        return round(100 * self.hits / self.pictures, 2) if self.pictures >= FEWEST else None

    @classmethod
    def of(cls, values: Iterable[bool]) -> Share:
        """Count."""
        values = list(values)
        return cls(sum(values), len(values))

    def __str__(self) -> str:
        return f"{100 * self.hits / self.pictures:.0f}% of {self.pictures}" if self.pictures else "none"


class Figures(NamedTuple):
    """What an erasure came to."""

    ua: Share
    """Pictures of the concept by its name that no longer show it."""
    ua_synonyms: Share
    """The same by held-out synonyms; of styles, nothing."""
    ua_descriptions: Share
    """The same by held-out descriptions; of styles, nothing."""
    ira_drop: Share
    """Pictures of other concepts of its kind that lost theirs."""
    cra_drop: Share
    """Pictures of other concepts whose style (or object, when a style is erased) is lost."""
    intact: Share
    """Pictures of the concept by its name that are whole."""
    gone: Share
    """Two-object pictures from which the erased object is gone."""
    in_picture: Share
    """Two-object pictures in which the other object, the place and the style are all still there."""
    other: Share
    place: Share
    style: Share
    """Two-object pictures in which the other object, the place, the style is still there."""
    empty: Share
    """Pictures of places alone that still show the place and nothing else."""
    identical: Share
    """Pictures whose prompts name neither the concept nor a listed synonym that are the same to the last bit."""

    def __str__(self) -> str:
        return "  ".join(
            f"{name.replace('_', ' ')} {share}" for name, share in self._asdict().items() if share.pictures
        )

    def to_json(self) -> dict[str, float | None]:
        """Percentages; what too few pictures stand behind is None, and so is `in_picture` where the object is not gone."""
        found = {name: share.percent for name, share in self._asdict().items()}
        if self.gone.hits < GONE * self.gone.pictures:
            found["in_picture"] = None
        return found


def added(several: Sequence[Figures]) -> Figures:
    """The figures of several erasures together."""
    return Figures(*(Share(*map(sum, zip(*column, strict=True))) for column in zip(*several, strict=True)))


def by_name(pairs: Sequence[tuple[str, str]], seeds: Iterable[int]) -> list[Asked]:
    """An object in a style, by name."""
    seeds = list(seeds)
    return [Asked("name", caption(*pair), seed, pair[:1], pair[1]) for pair in pairs for seed in seeds]


def by_own_name(concept: str) -> list[Asked]:
    """An object in every style, three seeds each, or a style on every object of the benchmark: enough for a figure of it alone."""
    if concept in BENCHMARK:
        return by_name([(concept, style) for style in STYLES], range(100, 103))
    return by_name([(thing, concept) for thing in BENCHMARK], range(100, 102))


def by_words(thing: str, role: Literal["synonym", "description"], seeds: int = 1) -> list[Asked]:
    """An object in every style, by each of its held-out synonyms or descriptions."""
    words = words_of(thing)
    texts = words.heldout_synonyms if role == "synonym" else words.heldout_descriptions
    say = named if role == "synonym" else described
    return [Asked(role, say(t, s), 1000 + k, (thing,), s) for t in texts for s in STYLES for k in range(seeds)]


def in_scenes(thing: str, count: int) -> list[Asked]:
    """An object and another one at a place, each time others, which stands first in half of them."""
    rng, asked = random.Random(f"scenes of {thing}"), []
    others = [entry.name for entry in OBJECTS if entry.name != thing]
    for number in range(count):
        other, style, place = rng.choice(others), rng.choice(STYLES), rng.choice(list(places()))
        pair = (thing, other) if number % 2 == 0 else (other, thing)
        asked.append(Asked("scene", both(*pair, style, place), 2000 + number, (thing, other), style, place))
    return asked


def empties() -> list[Asked]:
    """Every place alone."""
    return [Asked("empty", empty_place(place), 3000 + n, (), place=place) for n, place in enumerate(places())]


class Exam:
    """What is asked of a model, and what it shows before any erasure.

    Args:
        model: the scenes, unerased.
        pairs: (object, style) of the prompts by name.
        seeds: of each.
        scenes: two-object pictures of an erased object.
    """

    def __init__(self, model: Model, pairs: Sequence[tuple[str, str]], seeds: int, scenes: int = 40):
        self.model, self.scenes = model, scenes
        self.shared = [*by_name(pairs, range(seeds)), *empties()]
        self._own: dict[str, tuple[list[Asked], list[Seen]]] = {}

    @cached_property
    def before(self) -> list[Seen]:
        """What the unerased model makes of the prompts that every erasure is given."""
        return draw(self.model, self.shared)

    def own(self, concept: str) -> tuple[list[Asked], list[Seen]]:
        """The prompts of one concept alone, and what the unerased model makes of them; of a style only its name."""
        if concept not in self._own:
            asked = by_own_name(concept)
            if concept in BENCHMARK:
                asked += [*by_words(concept, "synonym"), *by_words(concept, "description")]
                asked += in_scenes(concept, self.scenes)
            self._own[concept] = asked, draw(self.model, asked)
        return self._own[concept]

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
    """What the scenes' judges say of pictures of what was asked for."""
    objects = embedded_judge("scenes", "object")
    found = objects(images)
    assert found.counts is not None
    styles = verdicts_on(embedded_judge("scenes", "style"), images, [a.style or STYLES[0] for a in asked])
    spots = embedded_judge("scenes", "place")(images).labels
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
    synonyms = words_of(concept).train_synonyms + words_of(concept).heldout_synonyms if is_object else ()
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
