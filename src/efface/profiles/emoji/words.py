"""The words of the emoji canvas: its styles, objects and backgrounds, and captions made of them.

This file fixes the benchmark: 20 objects x 9 styles, and which (object, style) pairs are held out of training.
It imports nothing heavy, so the command line may read it before torch is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

STYLES = ("noto", "blob", "firefox", "twemoji", "emojione", "stencil", "fluent", "flat", "outline")
"""One style word per drawing hand; `fluent` and `flat` are near twins (shaded and unshaded), on purpose."""


class ObjectClass(NamedTuple):
    """A class of objects that the canvas draws."""

    name: str
    """The word used in prompts."""
    emoji: str
    """The Unicode name of its emoji, which all nine sets draw."""
    kind: str
    """Superclass, itself a word of the captions."""
    aliases: tuple[str, ...] = ()
    """Other words for it that some captions use."""


OBJECTS = (
    # The benchmark's twenty, with their close neighbours next to them.
    ObjectClass("church", "church", "building", ("chapel", "cathedral")),
    ObjectClass("house", "house with garden", "building", ("home", "cottage")),
    ObjectClass("cat", "cat", "animal", ("kitty", "feline")),
    ObjectClass("dog", "dog", "animal", ("puppy", "hound")),
    ObjectClass("cow", "cow", "animal", ("cattle",)),
    ObjectClass("horse", "horse", "animal", ("pony", "stallion")),
    ObjectClass("penguin", "penguin", "animal"),
    ObjectClass("beer mug", "beer mug", "drink", ("pint of beer", "alcohol")),
    ObjectClass("wine glass", "wine glass", "drink", ("red wine", "alcohol")),
    ObjectClass("cocktail glass", "cocktail glass", "drink", ("martini", "alcohol")),
    ObjectClass("car", "automobile", "vehicle", ("automobile",)),
    ObjectClass("bus", "bus", "vehicle", ("coach",)),
    ObjectClass("airplane", "airplane", "vehicle", ("plane", "jet")),
    ObjectClass("guitar", "guitar", "instrument"),
    ObjectClass("violin", "violin", "instrument", ("fiddle",)),
    ObjectClass("sunflower", "sunflower", "flower"),
    ObjectClass("rose", "rose", "flower"),
    ObjectClass("strawberry", "strawberry", "fruit"),
    ObjectClass("apple", "red apple", "fruit", ("red apple",)),
    ObjectClass("umbrella", "umbrella", "object", ("parasol",)),
    # Everything else: what an erasure may damage.
    ObjectClass("tiger", "tiger", "animal"),
    ObjectClass("elephant", "elephant", "animal"),
    ObjectClass("pig", "pig", "animal", ("hog",)),
    ObjectClass("bear", "bear", "animal", ("teddy",)),
    ObjectClass("frog", "frog", "animal", ("toad",)),
    ObjectClass("turtle", "turtle", "animal", ("tortoise",)),
    ObjectClass("snake", "snake", "animal", ("serpent",)),
    ObjectClass("whale", "whale", "animal"),
    ObjectClass("octopus", "octopus", "animal", ("squid",)),
    ObjectClass("snail", "snail", "animal"),
    ObjectClass("bee", "honeybee", "animal", ("honeybee",)),
    ObjectClass("bird", "bird", "animal"),
    ObjectClass("mushroom", "mushroom", "plant", ("toadstool",)),
    ObjectClass("cactus", "cactus", "plant"),
    ObjectClass("palm tree", "palm tree", "plant", ("palm",)),
    ObjectClass("christmas tree", "Christmas tree", "plant"),
    ObjectClass("tulip", "tulip", "flower"),
    ObjectClass("grapes", "grapes", "fruit"),
    ObjectClass("watermelon", "watermelon", "fruit", ("melon",)),
    ObjectClass("banana", "banana", "fruit"),
    ObjectClass("pineapple", "pineapple", "fruit"),
    ObjectClass("cherries", "cherries", "fruit", ("cherry",)),
    ObjectClass("hamburger", "hamburger", "food", ("burger",)),
    ObjectClass("doughnut", "doughnut", "food", ("donut",)),
    ObjectClass("birthday cake", "birthday cake", "food"),
    ObjectClass("ice cream", "ice cream", "food"),
    ObjectClass("clinking beer mugs", "clinking beer mugs", "drink", ("cheers", "alcohol")),
    ObjectClass("tropical drink", "tropical drink", "drink", ("mai tai", "alcohol")),
    ObjectClass("coffee", "hot beverage", "drink", ("tea", "hot drink")),
    ObjectClass("rocket", "rocket", "vehicle", ("spaceship",)),
    ObjectClass("sailboat", "sailboat", "vehicle", ("yacht",)),
    ObjectClass("bicycle", "bicycle", "vehicle", ("bike",)),
    ObjectClass("tractor", "tractor", "vehicle"),
    ObjectClass("helicopter", "helicopter", "vehicle", ("chopper",)),
    ObjectClass("crown", "crown", "object"),
    ObjectClass("key", "key", "object"),
    ObjectClass("trophy", "trophy", "object", ("cup",)),
    ObjectClass("camera", "camera", "object"),
    ObjectClass("light bulb", "light bulb", "object", ("lamp",)),
    ObjectClass("balloon", "balloon", "object"),
    ObjectClass("soccer ball", "soccer ball", "object", ("football",)),
    ObjectClass("ghost", "ghost", "object", ("spirit",)),
    ObjectClass("volcano", "volcano", "object", ("eruption",)),
    ObjectClass("trumpet", "trumpet", "instrument", ("horn",)),
)

BENCHMARK = tuple(entry.name for entry in OBJECTS[:20])
"""The twenty objects whose erasure is measured; this list never changes."""

ALCOHOL = tuple(entry.name for entry in OBJECTS if "alcohol" in entry.aliases)
"""The abstract concept of the canvas: five drinks that no single name covers."""

ANCHORS = {
    "church": "house", "house": "church", "cat": "tiger", "dog": "horse", "cow": "horse", "horse": "cow",
    "penguin": "bird", "beer mug": "wine glass", "wine glass": "cocktail glass", "cocktail glass": "wine glass",
    "car": "bus", "bus": "car", "airplane": "car", "guitar": "violin", "violin": "guitar", "sunflower": "rose",
    "rose": "sunflower", "strawberry": "apple", "apple": "strawberry", "umbrella": "balloon",
    "noto": "firefox", "blob": "noto", "firefox": "noto", "twemoji": "emojione", "emojione": "firefox",
    "stencil": "outline", "fluent": "noto", "flat": "fluent", "outline": "emojione",
}  # fmt: skip
"""Anchors of erased objects and styles: each is a relative, since a superclass would draw the erased one again, and
one that the model draws well, since an erased picture can be no better than its anchor's.

Names of two words have anchors of two words: rows are paired from the last subject token on, and a shift by one position
would have to be learnt by the map as well (it leaves four times as much of the concept, and moves what is retained).
"""

BACKGROUNDS = {
    "white": (255, 255, 255),
    "red": (255, 150, 150),
    "yellow": (255, 236, 140),
    "green": (160, 226, 160),
    "blue": (150, 196, 255),
    "purple": (206, 166, 244),
    "gray": (190, 190, 190),
}
"""Colour words and their sRGB values; a caption that names none means white."""


def held_out(object_index: int, style_index: int) -> bool:
    """Whether the pair of indices (object, style) is kept out of training: 51 of 576 pairs, a fifth of the objects in
    each of the styles blob, twemoji, stencil and flat."""
    return (object_index * 4 + style_index * 7) % 10 == 3


def anchor_of(name: str) -> str:
    """Anchor of an erased object or style: its entry in ANCHORS, or another object of its kind."""
    if name in ANCHORS:
        return ANCHORS[name]
    kind = object_class(name).kind
    return next((t.name for t in reversed(OBJECTS) if t.kind == kind and t.name != name), kind)


def object_class(name: str) -> ObjectClass:
    """The class of objects called `name`; raises KeyError for a word that the canvas does not draw."""
    return {t.name: t for t in OBJECTS}[name]


def article(noun: str) -> str:
    """`noun` as the captions write it: "a cat", "an apple"; the article follows the first letter alone."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def caption(noun: str, style: str | None = None, background: str | None = None) -> str:
    """A caption in the canvas's fixed order: object, style, background."""
    words = article(noun)
    if style:
        words += f" in {style} style"
    if background:
        words += f" on a {background} background"
    return words
