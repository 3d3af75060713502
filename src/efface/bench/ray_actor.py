"""The actor of the Ray engine: a worker in a process of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch

from efface.bench.contact_sheet import sheet_of
from efface.bench.engine import Worker, setting_of
from efface.bench.unit import Setting, Unit
from efface.bench.worker_spec import Observers
from efface.erasures import Erasure
from efface.errors import EffaceError
from efface.models.load import load
from efface.models.model import Model


class UnitResult(NamedTuple):
    """What an actor sends back for a unit."""

    entries: list[dict[str, Any]]
    """One a picture, as the ledger records them."""
    seconds: float
    """Seconds spent drawing."""
    sheet: bytes | None
    """PNG of the pictures, where it was asked for."""


class Sent(Mapping[str, Erasure]):
    """Erasures whose files were sent as bytes; read when they are attached and not kept, since many may be large."""

    def __init__(self) -> None:
        self.references: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Erasure:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "erasure.safetensors"
            path.write_bytes(ray.get(self.references[name]))
            return Erasure.load(path)

    def __contains__(self, name: object) -> bool:
        return name in self.references

    def __iter__(self) -> Iterator[str]:
        return iter(self.references)

    def __len__(self) -> int:
        return len(self.references)


class Actor:
    """A worker that draws one unit while it judges the one before; Ray calls it from several threads.

    Args:
        pipeline: name, folder or file of the model.
        observers: opens judges and measures.
        loading: arguments of `efface.load`; the precision is the run's.
    """

    def __init__(self, pipeline: str, observers: Observers, loading: Mapping[str, Any]):
        self.pipeline = pipeline
        self.loading = loading
        self.observers = observers
        self.drawing = Lock()
        self.judging = Lock()
        self.erasures = Sent()
        self.worker: Worker | None = None

    def load(self, setting: Setting) -> None:
        """Open the model and the judges; raises EffaceError when they are not those of the run."""
        torch.set_num_threads(setting.threads)
        model = Model(load(self.pipeline, **{**self.loading, "dtype": setting.dtype}))
        observers = self.observers()
        own = setting_of(model, observers, steps=setting.steps, guidance=setting.guidance)
        # More may look on than determine the unit: the keeper of files does not.
        if (own.base, own.scheduler) != (setting.base, setting.scheduler) or not set(setting.judges) <= set(own.judges):
            raise EffaceError(
                f"an actor found another model or other judges at {self.pipeline!r} than this process: "
                "expected the same files and versions on every machine."
            )
        self.worker = Worker(model, self.erasures, observers)

    def do(self, unit: Unit, files: dict[str, Any], sheet: bool) -> UnitResult:
        """Draw and judge a unit.

        Args:
            unit: what is drawn.
            files: references to the bytes of its erasures.
            sheet: whether the pictures are wanted too.
        """
        torch.set_num_threads(unit.setting.threads)  # OpenMP counts them for each thread anew
        assert self.worker is not None
        with self.drawing:
            self.erasures.references |= files
            started = time.perf_counter()
            pictures = self.worker.draw(unit)
            seconds = time.perf_counter() - started
        with self.judging:
            entries = self.worker.judged(unit, pictures)
        return UnitResult(entries, seconds, sheet_of(unit, pictures) if sheet else None)
