"""Prompts: any CSV file of prompts, how far pictures move from the unerased model's, and what any judge says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from efface.bench.measures import Distance
from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.protocols.base import Benchmark, Drawing, Observations, malformed, samples_of
from efface.bench.protocols.judged import findings
from efface.bench.table import Cell, mean
from efface.concepts.sample import evenly_spaced
from efface.errors import UsageError
from efface.judges import Judge
from efface.metrics.base import Comparison
from efface.metrics.pixels import Pixels


class Prompts(Benchmark):
    """Distance and verdicts of every erasure on the prompts of a file.

    Args:
        file: prompts with seeds, or without.
        judges: by the names that their columns get.
        compare: the distance.
        seeds: of prompts that bring none.
        limit: at most so many pictures, evenly spaced.

    Raises:
        UsageError: a judge is called `distance`.
    """

    name = "prompts"
    drawing = Drawing(steps=50, guidance=7.5)

    def __init__(
        self,
        file: PromptFile,
        judges: Mapping[str, Judge] | None = None,
        compare: Comparison | None = None,
        *,
        seeds: Sequence[int] = (0,),
        limit: int | None = None,
    ):
        self.file = file
        self.judges = dict(judges or {})
        self.compare = compare or Pixels()
        if "distance" in self.judges:
            raise UsageError("a judge is called 'distance', which is the pictures' own: call it otherwise.")
        self.samples = tuple(evenly_spaced(samples_of(file, seeds=seeds), limit))
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(sample.prompt for sample in self.samples))}
        self.clusters = [numbers[sample.prompt] for sample in self.samples]

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The distance and the judges."""
        return {"distance": Distance(self.compare, folder / "originals"), **self.judges}

    def cells(self, observed: Observations) -> dict[str, Cell]:
        """The mean distance, and each judge's findings."""
        cells: dict[str, Cell] = {}
        if observed.erasure is not None:
            cells["distance"] = mean([entry["distance"]["distance"] for entry in observed.after], self.clusters)
        for name, judge in self.judges.items():
            columns = findings(observed, name, judge.classes, self.clusters)
            cells |= {f"{name}: {column}": cell for column, cell in columns.items()}
        return cells

    def notes(self) -> list[str]:
        """Malformed rows."""
        return malformed(self.file)
