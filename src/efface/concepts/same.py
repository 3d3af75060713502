"""Whether a word means what is to be erased: a synonym, an inflection, a derivation, a kind of it, a piece of its name."""

from __future__ import annotations

import difflib
from functools import cached_property, lru_cache

from efface.concepts.concept import Concept
from efface.concepts.names import STYLE_WORDS, families, sensitive, sensitive_words
from efface.concepts.nouns import nouns
from efface.concepts.words import bases, folded, head, meaningful, phrase_bases

LEAST = 3
"""Letters that a word of the name must have for longer words to count as made from it."""
LONG = 8
"""Letters from which on a word of an artist's or a person's name is known without its last two."""
NEAR = 0.87
"""Likeness of two spellings (difflib) from which on they count as one name."""


class Same:
    """All that means one concept, looked up once; the names are those of the concept and its aliases."""

    def __init__(self, concept: Concept) -> None:
        self.names = tuple(dict.fromkeys(folded(name) for name in (concept.name, *concept.aliases)))
        self.is_name = concept.kind in ("style", "person")
        self.known = {name: _senses(name) for name in self.names}

    @cached_property
    def phrases(self) -> frozenset[str]:
        """Folded words and phrases of the same meaning: names, synonyms, kinds, derivations, relatives explained by it."""
        found: set[str] = set()
        for name in self.names:
            found |= phrase_bases(name)
            found |= {folded(other) for base in phrase_bases(name) for other in families().get(base, ())}
        own = [number for numbers in self.known.values() for number in numbers]
        explained = [relative for number in own for relative in nouns().explained.get(number, ())]
        for number in nouns().descend([*own, *explained]):
            found.update(nouns().plain[number].split("\t")[2].split(","))
        found = {phrase.partition(":")[0] for phrase in found}
        for numbers in self.known.values():
            found |= {folded(word) for number in numbers for word in nouns().meaning(number).derived}
        words = [word for name in self.names for word in (name, *meaningful(name))]
        topics = {sensitive().get(word) for word in words} | set(words) & set(sensitive_words())
        for topic in topics - {None}:
            found |= {folded(word) for word in sensitive_words()[str(topic)]}
        return frozenset(found)

    @cached_property
    def broader(self) -> frozenset[str]:
        """Folded words and phrases of what the concept is a kind of: to keep them would keep it."""
        above = nouns().ancestors(number for numbers in self.known.values() for number in numbers)
        return frozenset(folded(word) for number in above for word in nouns().meaning(number).words)

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of the names that carry their meaning."""
        names = set(self.names)
        if self.is_name:
            names |= {folded(other) for name in self.names for other in families().get(name, ())}
        found = {word for name in names for word in self._meaningful(name)}
        return frozenset(found)

    @cached_property
    def word_bases(self) -> frozenset[str]:
        """The words of the names and what they are inflections of."""
        return frozenset(base for word in self.words for base in bases(word))

    def _meaningful(self, name: str) -> tuple[str, ...]:
        words = meaningful(name)
        return (tuple(word for word in words if word not in STYLE_WORDS) or words) if self.is_name else words

    def covers(self, phrase: str) -> bool:
        """Whether a word or phrase means the concept, a kind of it, or is a piece of its name."""
        phrase = folded(phrase)
        if not phrase:
            return True
        if phrase_bases(phrase) & self.phrases or any(_nearly(phrase, name) for name in self.names):
            return True
        parts = self._meaningful(phrase)
        if len(parts) == 1:
            return self.made_of_name(parts[0])
        if self.is_name:
            return any(self.made_of_name(part) for part in parts)
        return self._phrase_covered(parts)

    def made_of_name(self, word: str) -> bool:
        """Whether a word is a piece of a word of the name, an inflection of it, or a longer word made from it."""
        if bases(word) & self.word_bases or any(word in own for name in self.names for own in name.split()):
            return True
        return any(word.startswith(own) or word.endswith(own) for own in self.stems)

    @cached_property
    def stems(self) -> frozenset[str]:
        """What longer words made from the name begin or end with; of long names also all but the ending ("caravagg")."""
        long = {word for word in self.words if len(word) >= LEAST}
        return frozenset(long | {word[:-2] for word in long if self.is_name and len(word) >= LONG})

    def _phrase_covered(self, parts: tuple[str, ...]) -> bool:
        """A phrase of several words names the concept, where it holds a whole name or more of one than its last word.

        A "fire truck" may stand beside a "garbage truck"; a "garbage can" and a "truck" may not.
        """
        has = [bases(part) for part in parts]
        if has[-1] & self.phrases:
            return True
        for name in self.names:
            own = self._meaningful(folded(head(name))) or self._meaningful(name)
            telling = own[:-1] or own
            if any(bases(word) & part for word in telling for part in has):
                return True
        return False

    def excludes(self, phrase: str) -> bool:
        """Whether a word must not be kept: it means the concept, or something of which the concept is a kind."""
        return self.covers(phrase) or bool(phrase_bases(phrase) & self.broader)


def _senses(name: str) -> tuple[int, ...]:
    """The meanings of a name, also of the adjective or verb that it is."""
    found = dict.fromkeys((*nouns().senses(name), *nouns().derivations.get(name, ())))
    return tuple(found)


def _nearly(one: str, other: str) -> bool:
    """Whether two spellings are of one name ("elliot lilly", "eliott lilly")."""
    if min(len(one), len(other)) < 6 or abs(len(one) - len(other)) > 3:
        return False
    matcher = difflib.SequenceMatcher(None, one, other)
    return matcher.real_quick_ratio() >= NEAR and matcher.quick_ratio() >= NEAR and matcher.ratio() >= NEAR


@lru_cache(maxsize=256)
def same(concept: Concept) -> Same:
    """All that means a concept; kept for the next question."""
    return Same(concept)


def same_thing(concept: Concept | str, word: str) -> bool:
    """Whether a word is the concept by another name: synonym, inflection, derivation, kind, or a piece of its tokens."""
    return same(Concept(concept) if isinstance(concept, str) else concept).covers(word)
