"""A run of a protocol in a folder: draws and judges what is missing, and reads the table from the ledger alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from efface.bench.engine import Worker, run, setting_of
from efface.bench.file_worker import FileWorker
from efface.bench.ledger import Ledger
from efface.bench.measures import Distance, ImageSaver
from efface.bench.observer import Observer
from efface.bench.protocols.base import Benchmark, Drawing, Entries, NamedErasure, Observations
from efface.bench.table import Row, with_means
from efface.bench.unit import Unit, units_of
from efface.bench.worker_spec import ErasureFiles
from efface.concepts.sample import Sample
from efface.io.progress import Progress, silent
from efface.models.model import Model

LEDGER = "ledger.sqlite"
Runner = Callable[[Sequence[Unit], Ledger, Progress], int]
"""Does units, those of the unerased model before all others, here or elsewhere."""


def watchers(
    protocol: Benchmark, erasures: Sequence[NamedErasure], folder: Path, drawing: Drawing, save: Path | None = None
) -> dict[str, Observer]:
    """All that look at a run's pictures: what the protocol asks for, and the keeper of files, which determines nothing."""
    observers = protocol.observers(folder)
    if save is None:
        return observers
    models = {(): "unerased"} | {(g.sha256,): f"{g.name}-{g.sha256[:8]}" for g in erasures}
    names = {(s.prompt, s.seed, guidance_of(s, drawing)): s.name for s in protocol.samples}
    return observers | {"saved": ImageSaver(save, models, names)}


def guidance_of(sample: Sample, drawing: Drawing) -> float:
    """A prompt's own guidance, or that of all."""
    return float(drawing.guidance if sample.guidance is None else sample.guidance)


class Run:
    """Pictures of one protocol, of the unerased model and under every erasure, in a folder with `ledger.sqlite`.

    Args:
        model: unerased.
        protocol: what is drawn and measured.
        erasures: each is measured alone.
        folder: of the run; what it holds is not made again.
        drawing: instead of the protocol's own.
        save: folder where pictures are kept as they are drawn, one folder a model.

    Raises:
        EffaceError: an erasure's concept is not of this protocol, or the folder holds no ledger.
    """

    def __init__(
        self,
        model: Model,
        protocol: Benchmark,
        erasures: Sequence[NamedErasure],
        folder: Path,
        *,
        drawing: Drawing | None = None,
        save: Path | None = None,
    ):
        self.model = model
        self.protocol = protocol
        self.erasures = list(erasures)
        self.folder = folder
        self.save = save
        self.drawing = drawing or protocol.drawing
        self.kinds = {g.sha256: protocol.kind(g) for g in erasures}
        self.observers: dict[str, Observer] = protocol.observers(folder)
        d = self.drawing
        self.setting = setting_of(model, self.observers, steps=d.steps, guidance=d.guidance, side=d.side)
        # A unit has one guidance, so that prompts that bring their own are drawn in batches too.
        self.groups: dict[float, list[int]] = {}
        for i, sample in enumerate(protocol.samples):
            self.groups.setdefault(guidance_of(sample, self.drawing), []).append(i)

    def units(self, erasure: NamedErasure | None) -> list[Unit]:
        """All pictures of one model, in groups of one guidance."""
        erasures = () if erasure is None else (erasure.sha256,)
        samples = self.protocol.samples
        return [
            unit
            for guidance, members in self.groups.items()
            for unit in units_of(
                replace(self.setting, guidance=guidance),
                erasures,
                [(samples[i].prompt, samples[i].seed) for i in members],
                batch=self.drawing.batch,
            )
        ]

    @cached_property
    def ledger(self) -> Ledger:
        """The run's ledger, made when it is first needed."""
        return Ledger(self.folder / LEDGER)

    def missing(self) -> list[Unit]:
        """What is still to be drawn: the unerased pictures, then those of every erasure; makes no file."""
        units = [unit for erasure in (None, *self.erasures) for unit in self.units(erasure)]
        if (self.folder / LEDGER).exists():
            return self.ledger.missing(units)
        return list({unit.key: unit for unit in units}.values())

    def run(self, progress: Progress = silent, *, on: Runner | None = None) -> None:
        """Draw and judge what is missing, and look at the real pictures.

        Args:
            progress: told the share of units that is done, and a line about it.
            on: does the units; this process by default.
        """
        if self.protocol.real:
            run(self.file_worker, self.file_worker.units(), self.ledger)
        missing = self.missing()
        self._draw_again(missing)
        (on or self._here)(missing, self.ledger, progress)

    def _here(self, units: Sequence[Unit], ledger: Ledger, progress: Progress) -> int:
        seen_by = watchers(self.protocol, self.erasures, self.folder, self.drawing, self.save)
        return run(Worker(self.model, ErasureFiles(self.files), seen_by), units, ledger, progress)

    @property
    def files(self) -> dict[str, Path]:
        """sha256 -> file of every erasure."""
        return {g.sha256: g.path for g in self.erasures}

    def entries(self, erasure: NamedErasure | None) -> Entries:
        """What was recorded for every sample of one model, in the samples' order."""
        recorded = chain.from_iterable(self.ledger.result(unit) for unit in self.units(erasure))
        order = chain.from_iterable(self.groups.values())
        return [entry for _, entry in sorted(zip(order, recorded, strict=True), key=lambda pair: pair[0])]

    def rows(self) -> list[Row]:
        """The rows of the table, from the ledger alone; the unerased model's is the first."""
        files = self.file_worker.units() if self.protocol.real else []
        real = [entry for unit in files for entry in self.ledger.result(unit)]
        before = self.entries(None)
        unerased = Observations(erasure=None, before=before, after=before, real=real)
        rows = [Row(name="unerased", method="", concepts="", cells=self.protocol.cells(unerased))]
        for erasure in self.erasures:
            observed = Observations(erasure=erasure, before=before, after=self.entries(erasure), real=real)
            seconds = float(erasure.provenance.notes.get("seconds", 0.0))
            rows.append(
                Row(
                    name=erasure.name,
                    method=erasure.provenance.method,
                    concepts=", ".join(erasure.concepts),
                    cells=self.protocol.cells(observed) | {"seconds": seconds, "bytes": erasure.bytes},
                    kind=self.kinds[erasure.sha256],
                )
            )
        return with_means([row for row in rows if row.cells])

    @cached_property
    def file_worker(self) -> FileWorker:
        """The real pictures."""
        return FileWorker(self.protocol.real, self.protocol.real_observers())

    def _draw_again(self, missing: Sequence[Unit]) -> None:
        """Unerased pictures whose files are gone, where a picture that is still to be drawn is compared with them."""
        coming = {unit.key for unit in missing}
        originals = {u.key: u for u in (replace(unit, erasures=()) for unit in missing) if u.key not in coming}
        worker = Worker(self.model, {}, {})
        for measure in self.observers.values():
            if isinstance(measure, Distance):
                for unit in filter(measure.lacks, originals.values()):
                    measure.measure(unit, worker.draw(unit))
