"""What an erasure retains when its user names nothing: never what is to go, whatever the text space puts nearest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from efface.concepts.concept import Concept
from efface.concepts.names import NEUTRAL
from efface.concepts.nouns import nouns
from efface.concepts.same import Same, same
from efface.concepts.sentences import in_sentences
from efface.concepts.siblings import siblings
from efface.concepts.words import IRREGULAR, folded, head, meaningful, whole_words

KIN = ("red", "old", "wooden")
"""Words before a noun by which it is another of its sort."""
FEW = 4
"""Siblings below which the table is taken to know nothing of a concept."""


def candidates(concept: Concept, words: Iterable[str], erased: Sequence[Concept] = ()) -> list[str]:
    """What may be retained beside a concept, before a text space orders it.

    Args:
        words: words that the model knows; they count only where no siblings of the concept are known.
        erased: what is erased together with it, and must not be retained either.
    """
    if concept.kind in ("explicit", "abstract"):
        return []
    others = [same(other) for other in erased if other != concept]
    known = [name for name in siblings(concept) if not any(other.excludes(name) for other in others)]
    if len(known) >= FEW:
        return known
    going = [same(concept), *others]
    return [*known, *(word for word in dict.fromkeys(words) if may_stay(word, going))]


def may_stay(word: str, going: Sequence[Same]) -> bool:
    """Whether a word is known to name, above all, something that can be seen and is no person, and nothing that is to go.

    A word that the table does not know may be anything, a nickname of the concept too.
    """
    return folded(word) in nouns().things and whole_words(word) and not any(own.excludes(word) for own in going)


def proposals(concept: Concept, ranked: Sequence[str], count: int = 16, erased: Sequence[Concept] = ()) -> list[str]:
    """At most `count` names, or for explicit and abstract concepts prompts, to retain beside a concept.

    Args:
        ranked: words or names, those nearest in a text space first; any order gives a sound answer.
        count: how many are wanted.
        erased: what is erased together with it, and must not be retained either.
    """
    if concept.kind in ("explicit", "abstract"):
        return neutral_prompts([concept, *erased])[:count]
    found = candidates(concept, ranked, erased)
    place = {folded(word): number for number, word in reversed(list(enumerate(ranked)))}
    return sorted(found, key=lambda name: place.get(folded(name), len(ranked)))[:count]


def neutral_prompts(erased: Sequence[Concept]) -> list[str]:
    """The neutral prompts that name nothing of what is erased."""
    going = [same(concept) for concept in erased]
    return [p for p in NEUTRAL if not any(own.covers(word) for own in going for word in meaningful(p))]


def naming(prompts: Iterable[str], erased: Sequence[Concept]) -> list[str]:
    """Those of the prompts that name something of what is erased: by its name or an alias, in singular or plural."""
    forms = {form for concept in erased for name in (concept.name, *concept.aliases) for form in _numbers(_words(name))}
    longest = max((len(form.split()) for form in forms), default=0)
    return [prompt for prompt in prompts if not forms.isdisjoint(_parts(prompt, longest))]


def kin(erased: Sequence[Concept]) -> list[str]:
    """Prompts of the nearest that no list of siblings holds: beside a christmas tree, "a tree" and "a red tree".

    They are of objects whose names or aliases have several words, in some of the concept's sentences; none names what is erased.
    """
    found = []
    for concept in erased:
        for name in (concept.name, *concept.aliases) if concept.kind == "object" else ():
            *before, noun = head(name).split() or [""]
            if before or noun != folded(name):
                others = (noun, *(f"{word} {noun}" for word in KIN))
                found += [prompt for other in others for prompt in in_sentences(concept).prompts(other)[::4]]
    named = set(naming(found, erased))
    return [prompt for prompt in dict.fromkeys(found) if prompt not in named]


def _words(text: str) -> list[str]:
    """The words of a text, folded, without the endings of possessives."""
    return re.findall(r"[^\W_]+", re.sub(r"'s?\b", "", folded(text)))


def _numbers(name: Sequence[str]) -> set[str]:
    """A name, given as its words, in singular and plural; nothing where it has none."""
    if not name:
        return set()
    last = name[-1]
    found = {
        last,
        f"{last}s",
        f"{last}es",
        IRREGULAR.get(last, last),
        *(w for w, base in IRREGULAR.items() if base == last),
    }
    if last.endswith("y"):
        found.add(f"{last[:-1]}ies")
    if len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us")):
        found.add(last[:-1])
    return {" ".join([*name[:-1], form]) for form in found}


def _parts(prompt: str, longest: int) -> Iterator[str]:
    """Every stretch of a prompt's words, of at most so many."""
    words = _words(prompt)
    yield from (" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1))
