"""Captions of scenes: what a training prompt says of objects, style, place and size, in varied English."""

from __future__ import annotations

import random

from recipes.emoji.compose import RELATIONS, SIZES, Item, Scene
from recipes.emoji.words import GROUNDS, OBJECTS, PLACES, STYLES, article

COLOURS = tuple(GROUNDS)
SMALL, LARGE = ("small", "tiny", "little"), ("large", "big", "huge")
LEADS = ("a picture of", "a drawing of", "an image of", "an illustration of")


def noun_of(item: Item, rng: random.Random) -> tuple[str, bool]:
    """A noun phrase for an object and whether it is a description: 62% its name, 23% a synonym, 15% a description."""
    entry, draw = OBJECTS[item.thing], rng.random()
    if draw > 0.85 and entry.train_descriptions:
        return rng.choice(entry.train_descriptions), True
    noun = rng.choice(entry.train_synonyms) if draw > 0.62 and entry.train_synonyms else entry.name
    if item.size == 0 and rng.random() < 0.3:
        return article(f"{rng.choice(SMALL)} {noun}"), False
    if item.size == len(SIZES) - 1 and rng.random() < 0.3:
        return article(f"{rng.choice(LARGE)} {noun}"), False
    draw = rng.random()
    return (noun if draw < 0.08 else f"the {noun}" if draw < 0.14 else article(noun)), False


def _where(scene: Scene, rng: random.Random) -> str:
    if scene.place >= 0:
        phrases = PLACES[scene.place].phrases
        return phrases[0] if rng.random() < 0.6 else rng.choice(phrases)
    colour = COLOURS[scene.ground]
    return rng.choice((f"on a {colour} background", f"on {colour}", f"on a plain {colour} ground"))


def caption_of(scene: Scene, rng: random.Random, empty: float = 0.1) -> str:
    """A caption; a tenth are empty, the style is left out of one in eight, the place of a quarter."""
    if rng.random() < empty:
        return ""
    where = _where(scene, rng)
    if not scene.items:
        bare = where.split(" ", 1)[-1] if where.split(" ", 1)[0] in ("in", "on", "at", "under", "among") else where
        return rng.choice((bare, bare, f"an empty scene {where}", f"nothing {where}", where, f"a picture of {bare}"))
    style = STYLES[scene.style] if rng.random() > 0.12 else None
    first, described = noun_of(scene.items[0], rng)
    text = first
    if len(scene.items) == 2:
        second, also = noun_of(scene.items[1], rng)
        described = described or also
        linked = rng.random() < 0.5
        joint = RELATIONS[scene.relation] if linked else rng.choice(("and", "and", "with", "beside", "next to"))
        if not linked and rng.random() < 0.5:
            first, second = second, first
        text = f"{first} {joint} {second}"
    draw = rng.random()
    if style and draw < 0.12 and not described:
        text = f"{style} drawing of {text}"
    elif style and draw < 0.2:
        text = f"in {style} style: {text}"
    elif style:
        text = f"{text} in {style} style"
    elif draw < 0.3:
        text = f"{rng.choice(LEADS)} {text}"
    if rng.random() < 0.75:
        text = f"{where}, {text}" if rng.random() < 0.12 else f"{text} {where}"
    return text
