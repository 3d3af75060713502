"""Checks the word lists of the scenes: `python -m recipes.emoji.words.check`.

The lists are split once, before anything is trained, into what captions of the training may say and what they never say.
This page asserts that the split leaks nothing; README.md states the rules in prose. It needs nothing but Python.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

WORDS = Path(__file__).with_name("words.json")
BENCHMARK = 20
"""How many objects, from the first on, are the benchmark's."""

STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of with in on at to for from by and or as it its is are be that which who this these into out up over "
        "under when where while you your one two",
    )
)
"""Words that carry no content; every comparison leaves them out."""

CAPTION = (
    "noto blob firefox twemoji emojione stencil fluent flat outline style drawing picture background ground plain "
    "white red yellow green blue purple gray meadow beach desert snow city room night sky sea forest mountain sunset stage "
    "tiny small big large huge left right above below beside next front"
)
"""Words of styles, grounds, places, sizes and relations, which captions of the training may say about any object."""

SUFFIXES = (
    ("ational", ""), ("fulness", "ful"), ("iveness", "ive"), ("ization", "ize"), ("ousness", "ous"),
    ("ation", ""), ("ement", ""), ("ment", ""), ("ness", ""), ("able", ""), ("ible", ""),
    ("ance", ""), ("ence", ""), ("ship", ""), ("less", ""), ("ical", "ic"), ("ful", ""), ("ity", ""), ("ive", ""),
    ("ing", ""), ("ist", ""), ("ous", ""), ("ier", "y"), ("est", ""), ("ed", ""), ("er", ""), ("or", ""), ("ly", ""), ("al", ""),
)  # fmt: skip
"""Endings and what replaces them; the first that fits and leaves three letters with a vowel is taken, once per round."""


def stem(word: str) -> str:
    """A short stem of a word. It strips more than Porter's does, so it finds two words alike more often, never less
    where it matters: plurals, verb forms, agents, adverbs and a final e or y all fall together."""
    word = word.lower().removesuffix("'s").replace("'", "")
    if len(word) <= 3:
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for _ in range(2):
        for ending, instead in SUFFIXES:
            rest = word.removesuffix(ending)
            if rest != word and len(rest) >= 3 and re.search("[aeiouy]", rest):
                word = rest + instead
                break
        else:
            break
    if len(word) > 3 and word[-1] in "ey":
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word


def stems(text: str) -> list[str]:
    """The stems of the content words of `text`, in order."""
    return [stem(word) for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower()) if word not in STOP]


def trigrams(text: str) -> set[tuple[str, ...]]:
    """The runs of three content stems in `text`."""
    s = stems(text)
    return set(zip(s, s[1:], s[2:], strict=False))


def problems(objects: list[dict]) -> list[str]:
    """Every breach of a rule, in words; an empty list is a pass."""
    found = []
    names = [o["name"] for o in objects]
    if len(objects) != 64 or len(set(names)) != 64:
        found.append(f"{len(set(names))} different names of {len(objects)} objects, not 64")
    fields = ["name", "emoji", "kind"]
    fields += ["train_synonyms", "heldout_synonyms", "train_descriptions", "heldout_descriptions"]

    # What a caption of the training can say, by stem: names, synonyms, kinds, and the words of its descriptions.
    trained = dict.fromkeys(stems(CAPTION), "the words of captions")
    for o in objects:
        for text in [o["name"], *o["train_synonyms"], *([o["kind"]] if o["kind"] else []), *o["train_descriptions"]]:
            for s in stems(text):
                trained.setdefault(s, f"{text!r} of {o['name']}")
    trained_trigrams = {t: d for o in objects for d in o["train_descriptions"] for t in trigrams(d)}

    owner: dict[tuple[str, ...], str] = {}
    sentences: dict[tuple[str, ...], str] = {}
    for i, o in enumerate(objects):
        name = o["name"]
        if list(o) != fields:
            found.append(f"{name}: fields {list(o)}")
        if o["kind"] == "object":
            found.append(f"{name}: the kind 'object' says nothing")
        counts = [len(o[f]) for f in fields[3:]]
        if counts[0] > 4 or not 2 <= counts[2] <= 4 or (i < BENCHMARK and (counts[1] < 2 or counts[3] < 2)):
            found.append(f"{name}: {counts} words and descriptions")
        for word in [name, *o["train_synonyms"], *o["heldout_synonyms"]]:
            key = tuple(stems(word))
            if not key:
                found.append(f"{name}: {word!r} has no content")
            if owner.get(key, name) != name or (key in owner and word in o["heldout_synonyms"]):
                found.append(f"{name}: {word!r} is taken by {owner[key]}")
            owner[key] = name
        for word in o["heldout_synonyms"]:
            found += [f"{name}: held-out {word!r} shares {s!r} with {trained[s]}" for s in stems(word) if s in trained]
            found += [
                f"{name}: held-out {word!r} has {seen!r} in it"
                for seen in [name, *o["train_synonyms"]]
                if seen.replace(" ", "").lower() in word.replace(" ", "").lower()
            ]
        own = {s for word in [name, *o["train_synonyms"], *o["heldout_synonyms"]] for s in stems(word)}
        for text in [*o["train_descriptions"], *o["heldout_descriptions"]]:
            found += [f"{name}: description {text!r} has {s!r} in it" for s in stems(text) if s in own]
            key = tuple(stems(text))
            if len(key) < 3 or key in sentences:
                found.append(f"{name}: description {text!r} is short or also of {sentences.get(key)}")
            sentences[key] = name
        for text in o["heldout_descriptions"]:
            shared = trigrams(text) & trained_trigrams.keys()
            found += [f"{name}: held-out {text!r} shares {' '.join(t)!r} with {trained_trigrams[t]!r}" for t in shared]
    return found


def main() -> None:
    """Checks the committed lists and prints how many there are."""
    assert [stem(w) for w in ("cherries", "cherry", "churches", "riding", "rider", "horses", "furry", "fur")] == [
        "cher", "cher", "church", "rid", "rid", "hors", "fur", "fur",
    ]  # fmt: skip
    objects = json.loads(WORDS.read_text(encoding="utf-8"))["objects"]
    found = problems(objects)
    assert not found, "\n".join(found)
    for field in ("train_synonyms", "heldout_synonyms", "train_descriptions", "heldout_descriptions"):
        n = [len(o[field]) for o in objects]
        first = n[:BENCHMARK]
        print(
            f"{field}: {sum(n)} in all, {sum(first)} of the {BENCHMARK} benchmark objects (at least {min(first)} each)"
        )


if __name__ == "__main__":
    main()
