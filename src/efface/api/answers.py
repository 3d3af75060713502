"""efface.audit_answers: what a vision-language model says of pictures, before and after an erasure, question by question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from efface.concepts.concept import Concept
from efface.concepts.questions import NAME, STYLE, affirms, names, presence
from efface.erasures import Erasure
from efface.errors import UsageError
from efface.io.atomic import write_atomically
from efface.io.images import read_picture
from efface.io.picture_folder import pictures_in
from efface.io.progress import Progress, silent
from efface.metrics.rates import Paired, Rate, paired, rate
from efface.models.vlm import BATCH, VisionLanguageModel


class Shown(NamedTuple):
    """A picture, and what is known of it."""

    picture: Image.Image
    name: str
    """What it shows."""
    style: str = ""
    """In which style; empty where nobody knows."""


class Asked(NamedTuple):
    """A question about a picture, and what counts."""

    group: str
    """Name of the row that it belongs to."""
    picture: Image.Image
    question: str
    words: tuple[str, ...]
    """Names one of which the answer must hold; of questions that are answered by yes or no, none."""


class AnswerRow(NamedTuple):
    """A share of answers before and after."""

    group: str
    before: Rate
    after: Rate
    change: Paired
    """After less before, on the same pictures."""


@dataclass(frozen=True)
class AnswerCard:
    """The result of an audit of answers."""

    concepts: tuple[str, ...]
    rows: tuple[AnswerRow, ...]
    examples: tuple[tuple[str, str, str], ...]
    """Some questions with their answers before and after."""

    def row(self, group: str) -> AnswerRow:
        """A row by the name of its group; raises UsageError where there is none."""
        for row in self.rows:
            if row.group == group:
                return row
        raise UsageError(
            f"the audit has no row {group!r}; expected one of {', '.join(row.group for row in self.rows)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        rows = {
            row.group: {name: getattr(row, name)._asdict() for name in ("before", "after", "change")}
            for row in self.rows
        }
        return {"concepts": list(self.concepts), "rows": rows, "examples": [list(example) for example in self.examples]}

    def save(self, folder: str | Path) -> Path:
        """Write `answers.json` to a folder; returns its path."""
        path = Path(folder) / "answers.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())
        return path


NAMED, SEEN, FALSE = "erased: named", "erased: is there one, yes", "others: is there an erased one, yes"
OTHERS_NAMED, OTHERS_SEEN, OTHERS_STYLE = "others: named", "others: is there one, yes", "others: style"
ABSENT, OWN_STYLE = "others: is there another, yes", "erased: style"
"""Rows of an audit; the first two should fall to 0, the others should stay."""
EXAMPLES = 6


def read_shown(folder: str | Path) -> list[Shown]:
    """Pictures of a folder with a sub-folder for what they show, and in it one for their style where that is known.

    Raises:
        EffaceError: the folder or a picture cannot be read.
        UsageError: a picture lies in no sub-folder.
    """
    files = pictures_in(folder)
    if bare := [file for file in files if not file.name]:
        raise UsageError(f"{bare[0].path} lies in no sub-folder that says what it shows: expected FOLDER/church/1.png.")
    return [Shown(read_picture(file.path), file.name, file.style) for file in files]


def audit_answers(
    vlm: VisionLanguageModel,
    erasure: Erasure,
    pictures: Sequence[Shown],
    *,
    scale: float = 1.0,
    batch: int = BATCH,
    progress: Progress = silent,
) -> AnswerCard:
    """Ask what pictures show, in which style, and whether something is there, without the erasure and with it.

    Args:
        vlm: the model the erasure was made for, with nothing attached that should not be asked.
        erasure: what is audited.
        pictures: of the erased concepts and of other things; none that the erasure was made from.
        scale: of the erasure.
        batch: questions answered together.
        progress: told the share that is done.

    Raises:
        UsageError: no picture shows what is erased, or none shows anything else.
    """
    concepts = erasure.provenance.concepts
    asked = questions_of(concepts, pictures)
    answers: list[list[str]] = []
    for number, attached in enumerate((False, True)):
        found: list[str] = []
        if attached:
            erasure.attach(vlm, scale=scale)
        try:
            for start in range(0, len(asked), batch):
                some = asked[start : start + batch]
                found += vlm.answers([a.picture for a in some], [a.question for a in some], batch=batch)
                progress((number + start / len(asked)) / 2, "erased" if attached else "as it is")
        finally:
            if attached:
                erasure.remove(vlm)
        answers.append(found)
    before, after = answers
    rows = [row_of(group, asked, before, after) for group in dict.fromkeys(a.group for a in asked)]
    changed = [(a.question, b, c) for a, b, c in zip(asked, before, after, strict=True) if b != c]
    return AnswerCard(tuple(concept.name for concept in concepts), tuple(rows), tuple(changed[:EXAMPLES]))


def questions_of(concepts: Sequence[Concept], pictures: Sequence[Shown]) -> list[Asked]:
    """All questions of an audit, row by row."""
    words = {concept.name: (concept.name, *concept.aliases) for concept in concepts}
    erased = [shown for shown in pictures if shown.name in words]
    others = [shown for shown in pictures if shown.name not in words]
    if not erased or not others:
        lacking = "what is erased" if not erased else "anything else"
        raise UsageError(f"no picture shows {lacking} ({', '.join(words)}): sub-folders say what pictures show.")
    kept = list(dict.fromkeys(shown.name for shown in others))
    found = [Asked(NAMED, s.picture, NAME, words[s.name]) for s in erased]
    found += [Asked(SEEN, s.picture, presence(s.name), ()) for s in erased]
    found += [Asked(OWN_STYLE, s.picture, STYLE, (s.style,)) for s in erased if s.style]
    found += [Asked(OTHERS_NAMED, s.picture, NAME, (s.name,)) for s in others]
    found += [Asked(OTHERS_SEEN, s.picture, presence(s.name), ()) for s in others]
    found += [Asked(OTHERS_STYLE, s.picture, STYLE, (s.style,)) for s in others if s.style]
    for number, shown in enumerate(others):
        concept = concepts[number % len(concepts)].name
        found.append(Asked(FALSE, shown.picture, presence(concept), ()))
        absent = kept[(kept.index(shown.name) + 1 + number) % len(kept)]
        if absent != shown.name:
            found.append(Asked(ABSENT, shown.picture, presence(absent), ()))
    return found


def row_of(group: str, asked: Sequence[Asked], before: Sequence[str], after: Sequence[str]) -> AnswerRow:
    """The shares of one group's answers that hold what counts, or say yes."""
    at = [number for number, one in enumerate(asked) if one.group == group]

    def hits(answers: Sequence[str]) -> list[bool]:
        return [names(answers[i], asked[i].words) if asked[i].words else affirms(answers[i]) for i in at]

    first, second = hits(before), hits(after)
    return AnswerRow(group=group, before=rate(first), after=rate(second), change=paired(first, second))
