"""Imagenette (ESD, UCE, RECE): "an image of a …", 10 classes of 500, top-1 of a classifier of ImageNet's 1,000 classes."""

from __future__ import annotations

from pathlib import Path

from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.protocols.base import Drawing, Entries, Given, Protocol, Seen, malformed, named, shots_of, spread
from efface.bench.table import Cell
from efface.errors import EffaceError
from efface.judges import Judge
from efface.metrics.rates import paired, rate


class Imagenette(Protocol):
    """How often pictures of the erased class still show it, and how often those of the others show theirs.

    Args:
        file: with a column `class`.
        judge: of a classifier that knows every class of the file, whatever its case.
        limit: at most so many prompts, evenly spaced.

    Raises:
        EffaceError: the judge does not know a class, or there is no such column.
    """

    name, drawing, erasures = "imagenette", Drawing(steps=50, guidance=7.5), 10

    def __init__(self, file: PromptFile, judge: Judge, *, limit: int | None = None):
        self.file, self.judge = file, judge
        self.shots = spread(shots_of(file, label="class"), limit)
        self.classes = tuple(dict.fromkeys(shot.label for shot in self.shots))
        known = {name.casefold() for name in judge.classes}
        unknown = [name for name in self.classes if name.casefold() not in known]
        if unknown:
            raise EffaceError(
                f"the judge {judge.name!r} has no class {unknown[0]!r} of {file.path}: give a classifier that knows it."
            )

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The classifier."""
        return {"classifier": self.judge}

    def kind(self, given: Given) -> str:
        """Classes; raises EffaceError for anything else."""
        return "classes" if named(given, self.classes, "class") else ""

    def cells(self, seen: Seen) -> dict[str, Cell]:
        """Top-1 of the erased class (lower is better) and of all others, and how far each is from the unerased model's."""
        now, before = self._right(seen.after), self._right(seen.before)
        # Pictures of a class share their prompt, so that seeds are resampled, not prompts.
        if seen.given is None:
            return {"all classes": rate(now)}
        gone = named(seen.given, self.classes, "class")
        cells: dict[str, Cell] = {}
        for what, chosen in (("erased", True), ("others", False)):
            places = [i for i, shot in enumerate(self.shots) if (shot.label in gone) == chosen]
            if places:
                cells[what] = rate([now[i] for i in places])
                cells[f"{what} change"] = paired([before[i] for i in places], [now[i] for i in places])
        return cells

    def notes(self) -> list[str]:
        """Malformed rows."""
        return malformed(self.file)

    def _right(self, entries: Entries) -> list[bool]:
        labels = (entry["classifier"]["label"].casefold() for entry in entries)
        return [label == shot.label.casefold() for label, shot in zip(labels, self.shots, strict=True)]
