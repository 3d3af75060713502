"""Imagenette (ESD, UCE, RECE): "an image of a …", 10 classes of 500, top-1 of a classifier of ImageNet's 1,000 classes."""

from __future__ import annotations

from pathlib import Path

from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.protocols.base import (
    Benchmark,
    Drawing,
    Entries,
    NamedErasure,
    Observations,
    concepts_erased,
    malformed,
    samples_of,
)
from efface.bench.table import Cell
from efface.concepts.sample import evenly_spaced
from efface.errors import EffaceError
from efface.judges import Judge
from efface.judges.criterion import recorded_as_shown
from efface.metrics.rates import paired, rate


class Imagenette(Benchmark):
    """How often pictures of the erased class still show it, and how often those of the others show theirs.

    Args:
        file: with a column `class`.
        judge: of a classifier that knows every class of the file, whatever its case.
        limit: at most so many prompts, evenly spaced.

    Raises:
        EffaceError: the judge does not know a class, or there is no such column.
    """

    name = "imagenette"
    drawing = Drawing(steps=50, guidance=7.5)
    erasures = 10

    def __init__(self, file: PromptFile, judge: Judge, *, limit: int | None = None):
        self.file = file
        self.judge = judge
        self.samples = tuple(evenly_spaced(samples_of(file, label="class"), limit))
        self.classes = tuple(dict.fromkeys(name for sample in self.samples for name in sample.shows))
        known = {name.casefold() for name in judge.classes}
        unknown = [name for name in self.classes if name.casefold() not in known]
        if unknown:
            raise EffaceError(
                f"the judge {judge.name!r} has no class {unknown[0]!r} of {file.path}: give a classifier that knows it."
            )

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The classifier."""
        return {"classifier": self.judge}

    def kind(self, erasure: NamedErasure) -> str:
        """Classes; raises EffaceError for anything else."""
        return "classes" if concepts_erased(erasure, self.classes, "class") else ""

    def cells(self, observed: Observations) -> dict[str, Cell]:
        """Top-1 of the erased class (lower is better) and of all others, and how far each is from the unerased model's."""
        now = self._shown(observed.after)
        before = self._shown(observed.before)
        # Pictures of a class share their prompt, so that seeds are resampled, not prompts.
        if observed.erasure is None:
            return {"all classes": rate(now)}
        gone = concepts_erased(observed.erasure, self.classes, "class")
        cells: dict[str, Cell] = {}
        for what, chosen in (("erased", True), ("others", False)):
            members = [i for i, sample in enumerate(self.samples) if (sample.concept in gone) == chosen]
            if members:
                cells[what] = rate([now[i] for i in members])
                cells[f"{what} change"] = paired([before[i] for i in members], [now[i] for i in members])
        return cells

    def notes(self) -> list[str]:
        """Malformed rows."""
        return malformed(self.file)

    def _shown(self, entries: Entries) -> list[bool]:
        """Whether each picture shows its class; the file may spell a class in another case than the judge."""
        said = (entry["classifier"] | {"label": entry["classifier"]["label"].casefold()} for entry in entries)
        names = (str(sample.concept).casefold() for sample in self.samples)
        return [recorded_as_shown(verdict, name) for verdict, name in zip(said, names, strict=True)]
