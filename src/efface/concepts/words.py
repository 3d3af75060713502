"""How names are read: as tokenizers read them, their base forms, and which of their words carry the meaning."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

SMALL_WORDS = frozenset({
    "a", "al", "an", "and", "as", "at", "bin", "by", "da", "de", "del", "della", "den", "der", "des", "di", "du",
    "e", "el", "for", "from", "her", "his", "ibn", "ii", "iii", "in", "is", "its", "iv", "jr", "la", "le", "les",
    "los", "my", "of", "on", "or", "some", "sr", "ten", "ter", "the", "to", "van", "von", "with", "y", "your", "zu",
})  # fmt: skip
"""Articles, prepositions and particles of names, which say nothing of what is meant."""

IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "lice": "louse",
    "geese": "goose", "teeth": "tooth", "feet": "foot", "oxen": "ox", "dice": "die", "wolves": "wolf",
    "knives": "knife", "wives": "wife", "lives": "life", "leaves": "leaf", "loaves": "loaf", "calves": "calf",
    "halves": "half", "shelves": "shelf", "thieves": "thief", "scarves": "scarf", "hooves": "hoof", "elves": "elf",
    "cacti": "cactus", "fungi": "fungus", "octopi": "octopus", "fed": "feed", "shot": "shoot", "bled": "bleed",
    "bloody": "blood", "fought": "fight", "killed": "kill", "dying": "die", "died": "die", "dead": "death",
    "lying": "lie", "sang": "sing", "swam": "swim", "drew": "draw", "drawn": "draw", "wrote": "write",
    "written": "write", "flew": "fly", "flown": "fly", "burnt": "burn", "slain": "slay", "hung": "hang",
}  # fmt: skip
"""Inflected forms that no rule finds."""

SUFFIXES = (
    "'s", "’s", "s'", "s’", "s", "es", "ed", "d", "ing", "ings", "er", "ers", "or", "ors", "r", "rs", "ist", "ists",
    "ism", "y", "ish", "ly", "like", "less", "ful", "ness", "ity", "ation", "esque", "ian", "ians", "able", "al",
)  # fmt: skip
"""Endings of inflections and of the commonest derivations."""


def as_read(text: str) -> str:
    """A text as the tokenizers of these models read it: composed letters, one space between words, small letters."""
    return " ".join(unicodedata.normalize("NFC", text).split()).lower()


@lru_cache(maxsize=1 << 16)
def folded(text: str) -> str:
    """A name for comparing: as it is read, without accents, hyphens, dots and articles in front."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", as_read(text)) if not unicodedata.combining(c))
    plain = plain.translate(str.maketrans({"-": " ", "_": " ", ".": " ", "’": "'", "ł": "l", "ø": "o", ":": " "}))
    return re.sub(r"^(a|an|the) (?=\S)", "", " ".join(plain.split()))


def meaningful(name: str) -> tuple[str, ...]:
    """The words of a name that carry its meaning: no articles, prepositions or particles, unless there is nothing else."""
    words = tuple(word for word in re.findall(r"[^\W_]+(?:'[a-z]+)?", folded(name)))
    return tuple(word for word in words if word not in SMALL_WORDS) or words


def head(name: str) -> str:
    """The phrase that says what is meant: before "of", "with" and the like ("glass of wine" is a glass)."""
    return re.split(r" (?:of|with|in|on|at|for|and|from|by|to) ", folded(name))[0]


def bases(word: str) -> set[str]:
    """A word and what it may be an inflection or a derivation of, by its endings; never fewer than three letters."""
    word = folded(word)
    found = {word, IRREGULAR.get(word, word)}
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            found.update(_stems(word.removesuffix(suffix), vowel=suffix[0] in "aeiouy"))
    return found


def _stems(stem: str, vowel: bool) -> Iterable[str]:
    """What a word may have been before an ending: unchanged, with the e or y that it lost, with one consonant less."""
    yield stem
    if stem.endswith("i"):
        yield stem[:-1] + "y"
    if vowel:
        yield from (stem + letter for letter in "eyo")
        if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiou":
            yield stem[:-1]


def without_possessive(text: str) -> str:
    """A name without the ending of the possessive ("van Gogh's" is van Gogh)."""
    return re.sub(r"(?<=\w)['’]s?$", "", text)


def singulars(phrase: str) -> list[str]:
    """A folded phrase, and what it may be the plural of; the phrase itself first."""
    before, space, last = folded(phrase).rpartition(" ")
    found = [last, IRREGULAR.get(last, last)]
    for ending, single in (("ies", "y"), ("es", ""), ("s", "")):
        if last.endswith(ending) and len(last) - len(ending) >= 3 and not last.endswith("ss"):
            found.append(last.removesuffix(ending) + single)
    return [before + space + word for word in dict.fromkeys(found)]


def phrase_bases(phrase: str) -> set[str]:
    """A phrase and its base forms: those of its last word, which inflects for all of it."""
    before, space, last = folded(phrase).rpartition(" ")
    return {before + space + base for base in bases(last)}


def whole_words(text: str) -> bool:
    """Whether a text consists of words: letters, with single spaces, hyphens, dots or apostrophes between them."""
    return re.fullmatch(r"[^\W\d_]+\.?(?:[ '’.-]+[^\W\d_]+\.?)*", text) is not None
