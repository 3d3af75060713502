"""WordNet's nouns: which words mean the same, what is a kind of what; read once, when first asked."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from importlib import resources
from typing import NamedTuple

from efface.concepts.words import folded, phrase_bases

THINGS = frozenset({"05", "06", "08", "13", "17", "18", "19", "20", "27"})
"""WordNet's files of what can be seen: animals, artefacts, bodies, food, landscapes, persons, phenomena, plants, matter."""
PERSONS = "18"
"""WordNet's file of persons."""


class Meaning(NamedTuple):
    """One meaning of one or several words (a synset)."""

    file: str
    """Number of WordNet's lexicographer file, which says what sort of thing it is."""
    tagged: int
    """How often it occurs in WordNet's tagged corpus."""
    words: tuple[str, ...]
    """The words that have it, spelt as WordNet spells them."""
    ranks: tuple[int, ...]
    """For each word: the place of this meaning among those of the word, 1 for the most frequent."""
    above: tuple[int, ...]
    """Meanings that it is a kind or an instance of."""
    instance: bool
    """Whether it is one single thing with a name: a person, a place."""
    derived: tuple[str, ...]
    """Adjectives, verbs and other words made from it or that it is made from."""


class Nouns:
    """The table; meanings have numbers."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        # Folding the text at once is ten times as fast as folding its words.
        plain = text.lower().translate(str.maketrans("-._", "   ")).replace("  ", " ")
        self.plain = plain.replace(" ,", ",").replace(" \t", "\t").replace(" :", ":").split("\n")

    @cached_property
    def numbers(self) -> dict[str, list[int]]:
        """Folded word -> its meanings."""
        found: dict[str, list[int]] = {}
        for number, line in enumerate(self.plain):
            for word in line.split("\t", 3)[2].split(","):
                found.setdefault(word.partition(":")[0], []).append(number)
        return found

    @cached_property
    def things(self) -> frozenset[str]:
        """Folded words that name, above all, something to be seen that texts speak of: no person, no single thing."""
        usual: dict[str, tuple[int, bool]] = {}
        for line in self.plain:
            file, tagged, words, above, _ = line.split("\t", 4)
            is_thing = file in THINGS and file != PERSONS and tagged not in ("", "0") and not above.startswith("i")
            for word, _, rank in (entry.partition(":") for entry in words.split(",")):
                if int(rank or 1) < usual.get(word, (1 << 16, False))[0]:
                    usual[word] = (int(rank or 1), is_thing)
        return frozenset(word for word, (_, is_thing) in usual.items() if is_thing)

    @cached_property
    def below(self) -> dict[int, list[int]]:
        """Meaning -> its kinds and instances."""
        found: dict[int, list[int]] = {}
        for number, line in enumerate(self.plain):
            for above in line.split("\t", 4)[3].split(","):
                if above:
                    found.setdefault(int(above.removeprefix("i")), []).append(number)
        return found

    @cached_property
    def explained(self) -> dict[int, list[int]]:
        """Meaning -> near relatives that WordNet explains by it, such as a kitten by a cat."""
        found: dict[int, list[int]] = {}
        for number, line in enumerate(self.plain):
            for other in line.rsplit("\t", 1)[1].split(","):
                if other:
                    found.setdefault(int(other), []).append(number)
        return found

    @cached_property
    def derivations(self) -> dict[str, list[int]]:
        """Folded adjective or verb -> meanings of nouns that it belongs to."""
        found: dict[str, list[int]] = {}
        for number, line in enumerate(self.plain):
            for word in line.split("\t", 5)[4].split(","):
                if word:
                    found.setdefault(word, []).append(number)
        return found

    def meaning(self, number: int) -> Meaning:
        """What the table says of a meaning."""
        file, tagged, words, above, derived, _ = self.lines[number].split("\t")
        parts = [word.partition(":") for word in words.split(",")]
        return Meaning(
            file=file,
            tagged=int(tagged or 0),
            words=tuple(word for word, _, _ in parts),
            ranks=tuple(int(rank or 1) for _, _, rank in parts),
            above=tuple(int(number.removeprefix("i")) for number in above.split(",") if number),
            instance=above.startswith("i"),
            derived=tuple(word for word in derived.split(",") if word),
        )

    def senses(self, phrase: str) -> list[int]:
        """The meanings of a word or phrase as a noun, the most frequent first; those of its base forms where it has none."""
        exact = self.numbers.get(folded(phrase))
        if exact:
            return sorted(exact, key=lambda number: self._rank(number, folded(phrase)))
        for base in sorted(phrase_bases(phrase), key=len, reverse=True):
            if base in self.numbers:
                return sorted(self.numbers[base], key=lambda number: self._rank(number, base))
        return []

    def _rank(self, number: int, word: str) -> int:
        meaning = self.meaning(number)
        return min(rank for spelt, rank in zip(meaning.words, meaning.ranks, strict=True) if folded(spelt) == word)

    def descend(self, numbers: Iterable[int]) -> Iterator[int]:
        """These meanings and all of their kinds and instances, level by level."""
        seen: set[int] = set()
        level = list(numbers)
        while level:
            level = [number for number in dict.fromkeys(level) if number not in seen]
            seen.update(level)
            yield from level
            level = [kind for number in level for kind in self.below.get(number, ())]

    def ancestors(self, numbers: Iterable[int]) -> set[int]:
        """All meanings of which these are kinds or instances; not themselves."""
        found: set[int] = set()
        level = list(numbers)
        while level:
            level = [above for number in level for above in self.meaning(number).above if above not in found]
            found.update(level)
        return found

    def is_a(self, number: int, *names: str) -> bool:
        """Whether a meaning is a kind or an instance of something that has one of these names."""
        wanted = {folded(name) for name in names}
        return any(wanted & {folded(word) for word in self.meaning(above).words} for above in self.ancestors([number]))


@lru_cache(maxsize=1)
def nouns() -> Nouns:
    """The table that lies in this package (a quarter of a second, once a process)."""
    packed = (resources.files("efface") / "concepts" / "data" / "nouns.txt.gz").read_bytes()
    return Nouns(gzip.decompress(packed).decode())
