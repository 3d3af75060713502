"""A run of a protocol in a folder: draws and judges what is missing, and reads the table from the ledger alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from efface.bench.engine import Progress, Worker, run, setting_of
from efface.bench.file_worker import Shelf
from efface.bench.ledger import Ledger
from efface.bench.measures import Distance, Saved
from efface.bench.observer import Observer
from efface.bench.protocols.base import Drawing, Entries, Given, Protocol, Seen
from efface.bench.table import Line, with_means
from efface.bench.unit import Unit, units_of
from efface.bench.worker_spec import OnDisk
from efface.concepts.sample import Shot
from efface.models.model import Model

LEDGER = "ledger.sqlite"
Runner = Callable[[Sequence[Unit], Ledger, Progress], int]
"""Does units, those of the unerased model before all others, here or elsewhere."""


def watchers(
    protocol: Protocol, given: Sequence[Given], folder: Path, drawing: Drawing, save: Path | None = None
) -> dict[str, Observer]:
    """All that look at a run's pictures: what the protocol asks for, and the keeper of files, which determines nothing."""
    found = protocol.observers(folder)
    if save is None:
        return found
    models = {(): "unerased"} | {(g.sha256,): f"{g.name}-{g.sha256[:8]}" for g in given}
    names = {(s.prompt, s.seed, guidance_of(s, drawing)): s.name for s in protocol.shots}
    return found | {"saved": Saved(save, models, names)}


def guidance_of(shot: Shot, drawing: Drawing) -> float:
    """A prompt's own guidance, or that of all."""
    return float(drawing.guidance if shot.guidance is None else shot.guidance)


class Run:
    """Pictures of one protocol, of the unerased model and under every erasure, in a folder with `ledger.sqlite`.

    Args:
        model: unerased.
        protocol: what is drawn and measured.
        given: the erasures; each is measured alone.
        folder: of the run; what it holds is not made again.
        drawing: instead of the protocol's own.
        save: folder where pictures are kept as they are drawn, one folder a model.

    Raises:
        EffaceError: an erasure's concept is not of this protocol, or the folder holds no ledger.
    """

    def __init__(
        self,
        model: Model,
        protocol: Protocol,
        given: Sequence[Given],
        folder: Path,
        *,
        drawing: Drawing | None = None,
        save: Path | None = None,
    ):
        self.model, self.protocol, self.given, self.folder, self.save = model, protocol, list(given), folder, save
        self.drawing = drawing or protocol.drawing
        self.kinds = {g.sha256: protocol.kind(g) for g in given}
        self.observers: dict[str, Observer] = protocol.observers(folder)
        d = self.drawing
        self.setting = setting_of(model, self.observers, steps=d.steps, guidance=d.guidance, side=d.side)
        # A unit has one guidance, so that prompts that bring their own are drawn in batches too.
        self.groups: dict[float, list[int]] = {}
        for i, shot in enumerate(protocol.shots):
            self.groups.setdefault(guidance_of(shot, self.drawing), []).append(i)

    def units(self, given: Given | None) -> list[Unit]:
        """All pictures of one model, in groups of one guidance."""
        erasures = () if given is None else (given.sha256,)
        shots = self.protocol.shots
        return [
            unit
            for guidance, members in self.groups.items()
            for unit in units_of(
                replace(self.setting, guidance=guidance),
                erasures,
                [(shots[i].prompt, shots[i].seed) for i in members],
                batch=self.drawing.batch,
            )
        ]

    @cached_property
    def ledger(self) -> Ledger:
        """The run's ledger, made when it is first needed."""
        return Ledger(self.folder / LEDGER)

    def missing(self) -> list[Unit]:
        """What is still to be drawn: the unerased pictures, then those of every erasure; makes no file."""
        units = [unit for given in (None, *self.given) for unit in self.units(given)]
        if (self.folder / LEDGER).exists():
            return self.ledger.missing(units)
        return list({unit.key: unit for unit in units}.values())

    def run(self, report: Progress = lambda done, total: None, *, on: Runner | None = None) -> None:
        """Draw and judge what is missing, and look at the real pictures.

        Args:
            report: called with the units done and the units to do.
            on: does the units; this process by default.
        """
        if self.protocol.real:
            run(self.shelf, self.shelf.units(), self.ledger)
        missing = self.missing()
        self._draw_again(missing)
        (on or self._here)(missing, self.ledger, report)

    def _here(self, units: Sequence[Unit], ledger: Ledger, report: Progress) -> int:
        seen_by = watchers(self.protocol, self.given, self.folder, self.drawing, self.save)
        return run(Worker(self.model, OnDisk(self.files), seen_by), units, ledger, report)

    @property
    def files(self) -> dict[str, Path]:
        """sha256 -> file of every erasure."""
        return {g.sha256: g.path for g in self.given}

    def entries(self, given: Given | None) -> Entries:
        """What was recorded for every shot of one model, in the shots' order."""
        found = chain.from_iterable(self.ledger.result(unit) for unit in self.units(given))
        order = chain.from_iterable(self.groups.values())
        return [entry for _, entry in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    def lines(self) -> list[Line]:
        """The rows of the table, from the ledger alone; the unerased model's is the first."""
        shelved = self.shelf.units() if self.protocol.real else []
        real = [entry for unit in shelved for entry in self.ledger.result(unit)]
        before = self.entries(None)
        lines = [Line("unerased", "", "", self.protocol.cells(Seen(None, before, before, real)))]
        for given in self.given:
            cells = self.protocol.cells(Seen(given, before, self.entries(given), real))
            cells |= {"seconds": float(given.provenance.notes.get("seconds", 0.0)), "bytes": given.bytes}
            names = ", ".join(given.concepts)
            lines.append(Line(given.name, given.provenance.method, names, cells, self.kinds[given.sha256]))
        return with_means([line for line in lines if line.cells])

    @cached_property
    def shelf(self) -> Shelf:
        """The real pictures."""
        return Shelf(self.protocol.real, self.protocol.shelf())

    def _draw_again(self, missing: Sequence[Unit]) -> None:
        """Unerased pictures whose files are gone, where a picture that is still to be drawn is compared with them."""
        coming = {unit.key for unit in missing}
        originals = {u.key: u for u in (replace(unit, erasures=()) for unit in missing) if u.key not in coming}
        worker = Worker(self.model, {}, {})
        for measure in self.observers.values():
            if isinstance(measure, Distance):
                for unit in filter(measure.lacks, originals.values()):
                    measure.measure(unit, worker.draw(unit))
