"""Artists (ESD, UCE, RECE): five well-known and five niche ones, 20 prompts each, LPIPS against the unedited model."""

from __future__ import annotations

from pathlib import Path

from efface.bench.measures import Distance
from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.protocols.base import (
    Benchmark,
    Drawing,
    NamedErasure,
    Observations,
    concepts_erased,
    malformed,
    samples_of,
)
from efface.bench.table import Cell, mean
from efface.concepts.sample import evenly_spaced
from efface.metrics.base import Comparison


class Artists(Benchmark):
    """How far pictures move from the unerased model's, of the erased artist and of the others.

    Args:
        file: with a column `artist`.
        compare: LPIPS as published, at the pictures' own size or at 64 px as the public codes resize to.
        limit: at most so many prompts, evenly spaced.

    Raises:
        EffaceError: there is no such column.
    """

    name = "artists"
    drawing = Drawing(steps=50, guidance=7.5)
    erasures = 5

    def __init__(self, file: PromptFile, compare: Comparison, *, limit: int | None = None):
        self.file = file
        self.compare = compare
        self.samples = tuple(evenly_spaced(samples_of(file, label="artist"), limit))
        self.artists = tuple(dict.fromkeys(name for sample in self.samples for name in sample.shows))

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The distance; unerased pictures are kept in the run's folder."""
        return {"distance": Distance(self.compare, folder / "originals")}

    def kind(self, erasure: NamedErasure) -> str:
        """Artists; raises EffaceError for anything else."""
        return "artists" if concepts_erased(erasure, self.artists, "artist") else ""

    def cells(self, observed: Observations) -> dict[str, Cell]:
        """LPIPS_e of the erased artist (higher is better) and LPIPS_u of the others (lower); nothing for the unerased."""
        if observed.erasure is None:
            return {}
        gone = concepts_erased(observed.erasure, self.artists, "artist")
        what = "LPIPS" if self.compare.name.startswith("lpips") else "distance"
        values = [entry["distance"]["distance"] for entry in observed.after]
        parts = {
            f"{what}_{part}": [
                v for v, sample in zip(values, self.samples, strict=True) if (sample.concept in gone) == chosen
            ]
            for part, chosen in (("e", True), ("u", False))
        }
        return {name: mean(chosen) for name, chosen in parts.items() if chosen}

    def notes(self) -> list[str]:
        """Malformed rows."""
        return malformed(self.file)
