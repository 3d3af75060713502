"""The words of the emoji canvas: its styles, objects, backgrounds, and the captions made of them.

This page fixes the benchmark: 20 objects x 9 styles, and which (object, style) pairs are held out of training.
It imports nothing heavy, so the command line may read it before torch is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

STYLES = ("noto", "blob", "firefox", "twemoji", "emojione", "stencil", "fluent", "flat", "outline")
"""One style word per drawing hand; `fluent` and `flat` are near twins (shaded and unshaded), on purpose."""


class Thing(NamedTuple):
    """An object of the canvas."""

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
    Thing("church", "church", "building", ("chapel", "cathedral")),
    Thing("house", "house with garden", "building", ("home", "cottage")),
    Thing("cat", "cat", "animal", ("kitty", "feline")),
    Thing("dog", "dog", "animal", ("puppy", "hound")),
    Thing("cow", "cow", "animal", ("cattle",)),
    Thing("horse", "horse", "animal", ("pony", "stallion")),
    Thing("penguin", "penguin", "animal"),
    Thing("beer mug", "beer mug", "drink", ("pint of beer", "alcohol")),
    Thing("wine glass", "wine glass", "drink", ("red wine", "alcohol")),
    Thing("cocktail glass", "cocktail glass", "drink", ("martini", "alcohol")),
    Thing("car", "automobile", "vehicle", ("automobile",)),
    Thing("bus", "bus", "vehicle", ("coach",)),
    Thing("airplane", "airplane", "vehicle", ("plane", "jet")),
    Thing("guitar", "guitar", "instrument"),
    Thing("violin", "violin", "instrument", ("fiddle",)),
    Thing("sunflower", "sunflower", "flower"),
    Thing("rose", "rose", "flower"),
    Thing("strawberry", "strawberry", "fruit"),
    Thing("apple", "red apple", "fruit", ("red apple",)),
    Thing("umbrella", "umbrella", "object", ("parasol",)),
    # Everything else: what an erasure may damage.
    Thing("tiger", "tiger", "animal"),
    Thing("elephant", "elephant", "animal"),
    Thing("pig", "pig", "animal", ("hog",)),
    Thing("bear", "bear", "animal", ("teddy",)),
    Thing("frog", "frog", "animal", ("toad",)),
    Thing("turtle", "turtle", "animal", ("tortoise",)),
    Thing("snake", "snake", "animal", ("serpent",)),
    Thing("whale", "whale", "animal"),
    Thing("octopus", "octopus", "animal", ("squid",)),
    Thing("snail", "snail", "animal"),
    Thing("bee", "honeybee", "animal", ("honeybee",)),
    Thing("bird", "bird", "animal"),
    Thing("mushroom", "mushroom", "plant", ("toadstool",)),
    Thing("cactus", "cactus", "plant"),
    Thing("palm tree", "palm tree", "plant", ("palm",)),
    Thing("christmas tree", "Christmas tree", "plant"),
    Thing("tulip", "tulip", "flower"),
    Thing("grapes", "grapes", "fruit"),
    Thing("watermelon", "watermelon", "fruit", ("melon",)),
    Thing("banana", "banana", "fruit"),
    Thing("pineapple", "pineapple", "fruit"),
    Thing("cherries", "cherries", "fruit", ("cherry",)),
    Thing("hamburger", "hamburger", "food", ("burger",)),
    Thing("doughnut", "doughnut", "food", ("donut",)),
    Thing("birthday cake", "birthday cake", "food"),
    Thing("ice cream", "ice cream", "food"),
    Thing("clinking beer mugs", "clinking beer mugs", "drink", ("cheers", "alcohol")),
    Thing("tropical drink", "tropical drink", "drink", ("mai tai", "alcohol")),
    Thing("coffee", "hot beverage", "drink", ("tea", "hot drink")),
    Thing("rocket", "rocket", "vehicle", ("spaceship",)),
    Thing("sailboat", "sailboat", "vehicle", ("yacht",)),
    Thing("bicycle", "bicycle", "vehicle", ("bike",)),
    Thing("tractor", "tractor", "vehicle"),
    Thing("helicopter", "helicopter", "vehicle", ("chopper",)),
    Thing("crown", "crown", "object"),
    Thing("key", "key", "object"),
    Thing("trophy", "trophy", "object", ("cup",)),
    Thing("camera", "camera", "object"),
    Thing("light bulb", "light bulb", "object", ("lamp",)),
    Thing("balloon", "balloon", "object"),
    Thing("soccer ball", "soccer ball", "object", ("football",)),
    Thing("ghost", "ghost", "object", ("spirit",)),
    Thing("volcano", "volcano", "object", ("eruption",)),
    Thing("trumpet", "trumpet", "instrument", ("horn",)),
)

BENCHMARK = tuple(thing.name for thing in OBJECTS[:20])
"""The twenty objects whose erasure is measured; fixed for ever."""

ALCOHOL = tuple(thing.name for thing in OBJECTS if "alcohol" in thing.aliases)
"""The abstract concept of the canvas: five drinks that no single name covers."""

ANCHORS = {
    "church": "house", "house": "church", "cat": "tiger", "dog": "horse", "cow": "horse", "horse": "cow",
    "penguin": "bird", "beer mug": "wine glass", "wine glass": "cocktail glass", "cocktail glass": "wine glass",
    "car": "bus", "bus": "car", "airplane": "car", "guitar": "violin", "violin": "guitar", "sunflower": "rose",
    "rose": "sunflower", "strawberry": "apple", "apple": "strawberry", "umbrella": "balloon",
    "noto": "firefox", "blob": "noto", "firefox": "noto", "twemoji": "emojione", "emojione": "firefox",
    "stencil": "outline", "fluent": "noto", "flat": "fluent", "outline": "emojione",
}  # fmt: skip
"""What takes the place of an erased object or style: a relative, since a superclass would draw the erased one again, and
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


def held_out(thing: int, style: int) -> bool:
    """Whether the pair of indices (object, style) is kept out of training: 51 of 576 pairs, a fifth of the objects in
    each of the styles blob, twemoji, stencil and flat."""
    return (thing * 4 + style * 7) % 10 == 3


def anchor_of(name: str) -> str:
    """What takes the place of an erased object or style: its entry in ANCHORS, or another object of its kind."""
    if name in ANCHORS:
        return ANCHORS[name]
    kind = thing(name).kind
    return next((t.name for t in reversed(OBJECTS) if t.kind == kind and t.name != name), kind)


def thing(name: str) -> Thing:
    """The object called `name`; raises KeyError for a word that the canvas does not draw."""
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
