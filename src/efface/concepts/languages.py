"""Names in other languages: those of emoji in 26, as the package emojibase-data has them, and a user's own file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from efface.concepts.concept import Concept
from efface.concepts.tables import packed_lines
from efface.concepts.words import folded
from efface.errors import EffaceError, UsageError, system_reason

Translations = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Folded name -> language, as a code or in any words -> names there."""
COLUMNS = ("name", "language", "words")


@lru_cache(maxsize=1)
def packaged() -> dict[str, dict[str, str]]:
    """Folded English name of an emoji -> code of a language -> its name there."""
    head, *lines = (line.split("\t") for line in packed_lines("languages.txt.xz"))
    return {folded(line[0]): dict(zip(head[1:], line[1:], strict=True)) for line in lines}


def translated(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names in other languages of the first emoji that is called by one of some names, by language; none that is a name itself."""
    keys = [folded(name) for name in names]
    emoji = next((packaged()[key] for key in keys if key in packaged()), {})
    return {code: (word,) for code, word in emoji.items() if folded(word) not in keys}


def translations_of(concept: Concept, own: Translations) -> dict[str, tuple[str, ...]]:
    """What a user's file says of a concept, by its name or else an alias; none of the words is one of these."""
    keys = [folded(name) for name in (concept.name, *concept.aliases)]
    found = next((own[key] for key in keys if key in own), {})
    said = {language: tuple(word for word in words if folded(word) not in keys) for language, words in found.items()}
    return {language: words for language, words in said.items() if words}


def check_translations(own: Translations, concepts: Sequence[Concept]) -> None:
    """Raise UsageError where a user's file says nothing of any of the concepts."""
    if not any(translations_of(concept, own) for concept in concepts):
        named = ", ".join(repr(concept.name) for concept in concepts[:3])
        raise UsageError(
            f"the translations say nothing of what is erased ({named}), but of {', '.join(list(own)[:3])}: write a line that "
            "begins with its name."
        )


def read_translations(path: Path) -> Translations:
    """Names of concepts in other languages, from a CSV file with the columns name, language and words.

    Words of one language are separated by semicolons; empty lines, those that begin with # and a first line of the columns' names
    are skipped; several lines of one concept and language add up.

    Raises:
        EffaceError: the file cannot be read.
        UsageError: it is empty, or a line is not understood.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = system_reason(error) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise EffaceError(
            f"the translations {path} cannot be read ({reason}): give a CSV file with the columns {', '.join(COLUMNS)}."
        ) from error
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        if not found and tuple(cell.lower() for cell in cells) == COLUMNS:
            continue
        words = tuple(word.strip() for word in cells[-1].split(";") if word.strip())
        if len(cells) != len(COLUMNS) or not all(cells) or not words:
            raise UsageError(
                f"line {number} of {path} is {line.strip()!r}; expected a name, a language and words between semicolons, as in "
                "church,de,Kirche;Gotteshaus."
            )
        by_language = found.setdefault(folded(cells[0]), {})
        by_language[cells[1]] = (*by_language.get(cells[1], ()), *words)
    if not found:
        raise UsageError(f"{path} translates no concept: write one line for each concept and language.")
    return found
