"""What a run of the canvas's protocol draws."""

from __future__ import annotations

import dataclasses
from typing import Any

from efface.bench.protocols.canvas.targets import KINDS, Kind, Mode, Target, targets_of
from efface.concepts.sample import Sample
from efface.families.base import Side
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption

PROTOCOL = "canvas"
"""Its name in run folders."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run of the protocol draws."""

    methods: tuple[str, ...]
    seeds: int = 2
    quick: bool = False
    """A fifth of the concepts, a quarter of the prompts, one seed."""
    mode: Mode = "single"
    """What is erased together."""
    first_seed: int = 0
    """Seed of each prompt's first picture."""
    side: Side = None
    """Pixels of each side of a picture, or width and height; None is the model's own size."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; what is as it always was is left out, as in runs from before it could be chosen."""
        usual = {"first_seed": 0, "side": None}
        return {name: value for name, value in dataclasses.asdict(self).items() if usual.get(name, self) != value}

    @property
    def concepts(self) -> dict[Kind, tuple[str, ...]]:
        """Concepts erased one at a time, by kind."""
        return {kind: names[::5] if self.quick else names for kind, names in KINDS.items()}

    @property
    def targets(self) -> list[Target]:
        """The rows of every method."""
        return targets_of(self.mode, self.concepts, quick=self.quick)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(object, style) of every prompt; a quick run takes every fourth along the diagonals, and all of its objects'."""
        if not self.quick:
            return [(o, s) for o in BENCHMARK for s in STYLES]
        gone = {name for target in self.targets for name in target.gone}
        return [
            (name, style)
            for i, name in enumerate(BENCHMARK)
            for j, style in enumerate(STYLES)
            if (j - i) % 4 == 0 or name in gone
        ]

    @property
    def samples(self) -> list[Sample]:
        """Every picture: an object in a style, the seeds of a prompt together."""
        seeds = range(self.first_seed, self.first_seed + (1 if self.quick else self.seeds))
        return [Sample(caption(*pair), seed, shows=pair) for pair in self.pairs for seed in seeds]

    @property
    def work(self) -> list[tuple[str, int]]:
        """(prompt, seed) of every picture, from which units are cut."""
        return [(sample.prompt, sample.seed) for sample in self.samples]

    @property
    def pictures(self) -> int:
        """Drawn in all, the unerased model's included."""
        return len(self.work) * (1 + len(self.methods) * len(self.targets))
