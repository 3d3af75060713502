"""What a run of the canvas's protocol draws."""

from __future__ import annotations

import dataclasses
from typing import Any

from efface.bench.protocols.canvas.many import COUNTS, DRAWN_STYLES, NOUNS, QUICK_COUNTS, SURVIVORS, many_targets
from efface.bench.protocols.canvas.targets import KINDS, Kind, Mode, Target, targets_of
from efface.concepts.sample import Sample
from efface.errors import UsageError
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
    """A fifth of the concepts, a quarter of the prompts, one seed; in mode `many` two lengths of lists and one style."""
    mode: Mode = "single"
    """What is erased together."""
    first_seed: int = 0
    """Seed of each prompt's first picture."""
    side: Side = None
    """Pixels of each side of a picture, or width and height; None is the model's own size."""
    counts: tuple[int, ...] = ()
    """How many objects are erased at once in mode `many`; 1, 5, 10, 20 and 40 by default, 5 and 20 of a quick run."""
    draws: int = 1
    """Random lists of each length in mode `many`."""

    def __post_init__(self) -> None:
        if self.mode != "many" and (self.counts or self.draws != 1):
            raise UsageError(f"counts and draws are of the mode many; the mode is {self.mode!r}: leave them out.")
        most = len(NOUNS) - SURVIVORS
        if wrong := [count for count in self.counts if not 1 <= count <= most]:
            raise UsageError(f"a count is {wrong[0]}; expected 1 to {most}, so that something is left to be kept.")
        if self.draws < 1:
            raise UsageError(f"draws is {self.draws}; expected at least 1.")

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; what is as it always was is left out, as in runs from before it could be chosen."""
        usual = {"first_seed": 0, "side": None, "counts": (), "draws": 1}
        return {name: value for name, value in dataclasses.asdict(self).items() if usual.get(name, self) != value}

    @property
    def concepts(self) -> dict[Kind, tuple[str, ...]]:
        """Concepts erased one at a time, by kind."""
        return {kind: names[::5] if self.quick else names for kind, names in KINDS.items()}

    @property
    def targets(self) -> list[Target]:
        """The rows of every method."""
        if self.mode == "many":
            counts = self.counts or (QUICK_COUNTS if self.quick else COUNTS)
            return many_targets(tuple(dict.fromkeys(counts)), self.draws)
        return targets_of(self.mode, self.concepts, quick=self.quick)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(object, style) of every prompt; a quick run takes every fourth along the diagonals, and all of its objects'. In mode
        `many` all objects are drawn in three styles, or in one of them."""
        if self.mode == "many":
            return [(o, s) for o in NOUNS for s in DRAWN_STYLES[: 1 if self.quick else None]]
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
