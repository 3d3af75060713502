"""What protocols share: the pictures they ask for, the erasures they measure, and the evidence they turn into numbers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from efface.bench.measures import features_of
from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.table import Cell
from efface.bench.unit import sha256_of
from efface.concepts.sample import Sample
from efface.erasures import Erasure, Provenance
from efface.errors import EffaceError, UsageError
from efface.metrics.fid import fid

Entries = Sequence[Mapping[str, Any]]
"""What was recorded of pictures, in order: short name of a judge or measure -> what it found."""


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn."""

    steps: int = 50
    guidance: float = 7.5
    """Guidance scale of prompts that bring none of their own."""
    side: int | tuple[int, int] | None = None
    """Pixels of each side, or width and height; None is the model's own size."""
    batch: int = 16
    """Pictures of a unit; they are always drawn together."""


class NamedErasure(NamedTuple):
    """An erasure that is measured."""

    name: str
    """Name of the erasure's file, without its ending."""
    path: Path
    sha256: str
    """sha256 of the erasure's file."""
    provenance: Provenance
    concepts: tuple[str, ...]
    """What it erases."""

    @property
    def bytes(self) -> int:
        """Size of its file."""
        return self.path.stat().st_size


class Observations(NamedTuple):
    """What the pictures of one model show, and what they are compared with; entries are in the order of the samples."""

    erasure: NamedErasure | None
    """None for the unerased model."""
    before: Entries
    """Entries of the unerased model's pictures."""
    after: Entries
    """Entries of this model's pictures."""
    real: Entries
    """Entries of the protocol's real pictures on disk."""


class Benchmark(ABC):
    """Which pictures are drawn, what looks at them, and what the numbers are."""

    name: ClassVar[str]
    drawing: ClassVar[Drawing]
    """As published, at the size of the published model (512 px)."""
    erasures: ClassVar[int] = 1
    """How many a method makes in the published protocol."""
    samples: tuple[Sample, ...]
    real: tuple[Path, ...] = ()
    """Real pictures that are looked at too."""

    @abstractmethod
    def observers(self, folder: Path) -> dict[str, Observer]:
        """Judges and measures by their short names; `folder` is the run's."""

    def real_observers(self) -> dict[str, Observer]:
        """Those that look at the real pictures."""
        return {}

    @abstractmethod
    def cells(self, observed: Observations) -> dict[str, Cell]:
        """The numbers of one model; raises EffaceError where an erasure's concept is not of this protocol."""

    def kind(self, erasure: NamedErasure) -> str:
        """Erasures of one kind have a mean in the table; raises EffaceError as `cells` does, before anything is drawn."""
        return ""

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, beside the names of what looked at the pictures."""
        return []


def load_erasures(paths: Sequence[Path], concepts: Sequence[str] = ()) -> list[NamedErasure]:
    """What is measured; the erasures themselves are read again when they are attached, and not kept.

    Args:
        paths: of the files.
        concepts: what each erases, in the protocol's words; nothing, or one a file.

    Raises:
        UsageError: a file is named twice, or the concepts are not as many as the files.
        EffaceError: a file cannot be read.
    """
    if concepts and len(concepts) != len(paths):
        raise UsageError(f"{len(concepts)} concepts were named for {len(paths)} erasures: name one for each, or none.")
    erasures: dict[str, NamedErasure] = {}
    for i, path in enumerate(paths):
        provenance = Erasure.load(path).provenance
        names = (concepts[i],) if concepts else tuple(c.name for c in provenance.concepts)
        digest = sha256_of(path)
        if digest in erasures:
            raise UsageError(f"{path} is the same erasure as {erasures[digest].name}: name it once.")
        erasures[digest] = NamedErasure(name=path.stem, path=path, sha256=digest, provenance=provenance, concepts=names)
    return list(erasures.values())


def concepts_erased(erasure: NamedErasure, known: Sequence[str], what: str) -> list[str]:
    """Which of a protocol's names an erasure erases; case, underscores and a last word "style" do not matter.

    Raises:
        EffaceError: none of them.
    """
    plain = {_plain(name) for name in erasure.concepts}
    names = [name for name in known if _plain(name) in plain]
    if not names:
        raise EffaceError(
            f"{erasure.name} erases {', '.join(erasure.concepts)}, which is no {what} of this protocol: expected one of "
            f"{', '.join(known)}; say which with --concept."
        )
    return names


def samples_of(file: PromptFile, *, seeds: Sequence[int] = (0,), label: str | None = None) -> tuple[Sample, ...]:
    """The pictures that a file of prompts asks for.

    Args:
        file: prompts; each is drawn once with its own seed.
        seeds: of prompts that bring none.
        label: column that says what a picture should show.

    Raises:
        EffaceError: the file lacks the column.
    """
    labels = [""] * len(file.rows) if label is None else file.column(label)
    unique = len({row.name for row in file.rows}) == len(file.rows)
    samples = []
    for row, text in zip(file.rows, labels, strict=True):
        name = re.sub(r"[^\w.-]", "_", row.name) if unique else f"line-{row.line}"
        shows = (text.strip(),) if text.strip() else ()
        if row.seed is not None:
            samples.append(Sample(row.prompt, row.seed, shows=shows, guidance=row.guidance, name=name))
            continue
        samples += [
            Sample(row.prompt, seed, shows=shows, guidance=row.guidance, name=f"{name}-{seed}") for seed in seeds
        ]
    return tuple(samples)


def malformed(file: PromptFile) -> list[str]:
    """Notes about a file's malformed rows."""
    parts = {"read all the same": file.repaired, "left out": file.skipped}
    return [
        f"{file.path.name}: {len(faults)} malformed rows were {how}, in lines {', '.join(str(f.line) for f in faults)}"
        for how, faults in parts.items()
        if faults
    ]


def distance_of_sets(entries: Entries, others: Entries, name: str) -> float:
    """FID between two sets of pictures by the features that were recorded under `name`."""
    return fid(features_of(entries, name), features_of(others, name))


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold().removesuffix(" style")
