"""How a process gets its worker: plain values and files, so that another process or machine can do the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface.bench.engine import Worker
from efface.bench.observer import Observer
from efface.erasures import Erasure
from efface.models.model import Model

Observers = Callable[[], Mapping[str, Observer]]
"""Opens judges and measures by their short names; a function of a module, so that it can be sent to another process."""


class ErasureFiles(Mapping[str, Erasure]):
    """Erasures by the sha256 of their file, read when they are attached and not kept: large ones fit no memory together.

    Args:
        paths: sha256 -> file.
    """

    def __init__(self, paths: Mapping[str, Path]):
        self.paths = paths

    def __getitem__(self, name: str) -> Erasure:
        return Erasure.load(self.paths[name])

    def __contains__(self, name: object) -> bool:
        return name in self.paths

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made of."""

    pipeline: str
    """`emoji`, a hub id, or a folder or file that every machine has at this path."""
    observers: Observers
    """Judges and measures."""
    erasures: Mapping[str, Path] = field(default_factory=dict)
    """sha256 of each erasure's file -> the file, on this machine."""
    loading: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `efface.load` beside the name."""

    def worker(self, model: Model) -> Worker:
        """A worker in this process, on a model that is already loaded."""
        return Worker(model, ErasureFiles(self.erasures), self.observers())
