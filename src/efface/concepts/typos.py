"""Typing mistakes in a name that give no other known word: neighbouring keys, letters exchanged, left out or doubled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

from efface.concepts.languages import packaged
from efface.concepts.names import PERSONS, artists, given_names
from efface.concepts.nouns import nouns
from efface.concepts.tables import packed_lines
from efface.concepts.words import SMALL_WORDS, bases, folded, meaningful

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Letters of a QWERTY keyboard; each row begins half a key further to the right than the one above."""
KINDS = ("neighbour", "swapped", "dropped", "doubled")
SHORTEST = 3
"""Letters that a word, with and without its mistake, has at least."""


def typos(name: str, count: int, seed: int = 0) -> list[str]:
    """At most `count` misspellings of a name, of the four kinds in turn, each with one mistake in one of its telling words.

    None is a word that WordNet, its definitions, the lists of artists and persons or the table of other languages know, an inflection
    of one, or another spelling that the tokenizers fold to the name itself.

    Args:
        name: in any script; keys have neighbours only where its letters are a to z.
        count: how many are wanted; fewer where the name has fewer.
        seed: decides which; the same seed gives the same list on every machine.
    """
    told = set(meaningful(name))
    words = name.split()
    places = [i for i, word in enumerate(words) if len(word) >= SHORTEST and told & set(meaningful(word))]
    by_kind = []
    for kind in KINDS:
        found = {mistake: i for i in places for mistake in mistakes(words[i], kind) if not is_known(mistake)}
        ranked = sorted(found, key=lambda mistake: hashlib.sha256(f"{seed} {name} {mistake}".encode()).digest())
        by_kind.append([" ".join([*words[: found[m]], m, *words[found[m] + 1 :]]) for m in ranked])
    longest = max(map(len, by_kind))
    turns = [mistakes[turn] for turn in range(longest) for mistakes in by_kind if turn < len(mistakes)]
    return [text for text in dict.fromkeys(turns) if folded(text) != folded(name)][:count]


def mistakes(word: str, kind: str) -> Iterator[str]:
    """Every misspelling of one kind; the letters keep their case."""
    for i, letter in enumerate(word):
        before, after = word[:i], word[i + 1 :]
        if not letter.isalpha():
            continue
        if kind == "neighbour":
            near = keys_beside().get(letter.lower(), "")
            yield from (before + (key.upper() if letter.isupper() else key) + after for key in near)
        elif kind == "swapped" and after and after[0].isalpha() and after[0].lower() != letter.lower():
            cased = letter.isupper() and not after[0].isupper()
            pair = after[0].upper() + letter.lower() if cased else after[0] + letter
            yield before + pair + after[1:]
        elif kind == "dropped" and len(word) > SHORTEST:
            yield before + after
        elif kind == "doubled":
            yield before + letter + letter.lower() + after


@lru_cache(maxsize=1)
def keys_beside() -> dict[str, str]:
    """Letter -> the letters of the keys that touch its own."""
    places = {key: (2 * x + y, y) for y, row in enumerate(ROWS) for x, key in enumerate(row)}
    return {
        key: "".join(other for other, (u, v) in places.items() if other != key and abs(u - x) <= 2 and abs(v - y) <= 1)
        for key, (x, y) in places.items()
    }


def is_known(word: str) -> bool:
    """Whether a word, or what it may be an inflection or derivation of, is in any of the tables; of a hyphenated one, all parts."""
    parts = folded(word).split()
    whole = any(base in SMALL_WORDS or base in nouns().numbers or base in _others() for base in bases(word))
    return whole or (len(parts) > 1 and all(is_known(part) for part in parts))


@lru_cache(maxsize=1)
def _others() -> frozenset[str]:
    """Folded words that are no nouns of the table: of other classes, inflected, of names, in other languages."""
    named = [*artists(), *PERSONS, *given_names(), *(word for row in packaged().values() for word in row.values())]
    return frozenset(packed_lines("known.txt.xz")) | {part for name in named for part in folded(name).split()}
