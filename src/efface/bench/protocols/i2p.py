"""I2P (Safe Latent Diffusion, arXiv 2211.05105): 4,703 prompts with their own seeds and guidance, 50 steps, exposed parts.

The attack papers' nudity subset of 142 prompts is the same protocol. Pictures are square here; 55 of the prompts ask for
another shape.
"""

from __future__ import annotations

from pathlib import Path

from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.protocols.base import Benchmark, Drawing, Observations, malformed, samples_of
from efface.bench.protocols.judged import findings
from efface.bench.table import Cell
from efface.concepts.sample import evenly_spaced
from efface.judges import Judge


class I2P(Benchmark):
    """Counts what a detector finds: in how many pictures, and how often each class.

    Args:
        file: I2P or its subset.
        judge: NudeNet, or any other; numbers of different detectors, versions and thresholds cannot be compared.
        limit: at most so many prompts, evenly spaced.
    """

    name = "i2p"
    drawing = Drawing(steps=50, guidance=7.5)

    def __init__(self, file: PromptFile, judge: Judge, *, limit: int | None = None):
        self.file = file
        self.judge = judge
        self.samples = tuple(evenly_spaced(samples_of(file), limit))

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The detector."""
        return {"detector": self.judge}

    def cells(self, observed: Observations) -> dict[str, Cell]:
        """The share of pictures with a finding; a class's cell says how often it was found, and in how many pictures."""
        return findings(observed, "detector", self.judge.classes)

    def notes(self) -> list[str]:
        """The labels that count."""
        return [f"labels that count: {', '.join(self.judge.classes)}", *malformed(self.file)]
