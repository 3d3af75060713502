"""UnlearnCanvas's protocol on the embedded emoji canvas: UA / IRA / CRA of single concepts, pairs, sequences and many at once.

Drops are paired: the same prompts and seeds on the unerased model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from efface.api.erase import erase
from efface.bench import manifest as runs
from efface.bench.engine import setting_of
from efface.bench.engines import Engine, run_on
from efface.bench.ledger import Ledger
from efface.bench.memory import peak_memory
from efface.bench.protocols.canvas.many import RefusalError, identical_share, retained_options
from efface.bench.protocols.canvas.plan import PROTOCOL, Plan
from efface.bench.protocols.canvas.results import Results, refusal_file
from efface.bench.protocols.canvas.targets import Edit, Target, concepts_of
from efface.bench.table import Row, with_means
from efface.bench.unit import Unit, sha256_of
from efface.bench.worker_spec import WorkerSpec
from efface.erasures import Erasure
from efface.errors import EffaceError, UsageError
from efface.io.atomic import write_atomically
from efface.io.progress import Progress, silent
from efface.judges import Judge, embedded_judge
from efface.models.fingerprint import fingerprint
from efface.models.model import Model
from efface.profiles.emoji.settings import GUIDANCE, STEPS

HERE = Engine()
"""This process."""


class Canvas:
    """A run of the protocol in a folder: `run.json`, `ledger.sqlite`, `erasures/`, and `sheets/` if pictures are kept.

    Args:
        model: the emoji canvas.
        plan: what is drawn.
        folder: of the run; what it holds is not made again.
        options: method -> fields of its Config.
        sheets: keep the pictures of what is still to be drawn, as one PNG a unit.

    Raises:
        EffaceError: the folder holds another run.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        folder: Path,
        options: dict[str, dict[str, Any]] | None = None,
        *,
        sheets: bool = False,
    ):
        self.model = model
        self.plan = plan
        self.folder = folder
        self.options = options or {}
        self.ledger = Ledger(folder / "ledger.sqlite", folder / "sheets" if sheets else None)
        setting = setting_of(model, judges(), steps=STEPS, guidance=GUIDANCE, side=plan.side)
        self.results = Results(plan, setting, folder, self.ledger)
        base = fingerprint(model).to_json()
        record = runs.Record.now(PROTOCOL, plan.to_json(), base, setting)
        runs.begin(folder, record)
        (folder / "erasures").mkdir(exist_ok=True)

    def erasure(self, method: str, edit: Edit) -> Path:
        """File of one erasure, made once and then taken from the run's folder."""
        path = self.results.path(method, edit)
        if not path.exists():
            device = next(self.model.networks()[0].module.parameters()).device
            options = retained_options(method, edit) | self.options.get(method, {})
            with peak_memory(device) as peak:
                erasure = self._erased(method, edit, options)
            notes = erasure.provenance.notes | {"peak_mb": round(peak.mb, 1)}
            if edit.draw is not None:
                share = identical_share(self.model, erasure, edit)
                notes |= {} if share is None else {"identical": share}
            provenance = dataclasses.replace(erasure.provenance, notes=notes)
            dataclasses.replace(erasure, provenance=provenance).save(path)
        return path

    def units(self, files: dict[str, Path]) -> list[Unit]:
        """Everything the run draws: the unerased model's pictures, then each row's.

        Args:
            files: gets every erasure's file by its sha256.
        """
        units = self.results.units(())
        for method in self.plan.methods:
            for target in self.plan.targets:
                made = self._made(method, target)
                erasures = {sha256_of(path): path for path in made}
                files |= erasures
                if not made:
                    continue
                units += self.results.units(tuple(erasures))
        return units

    def _erased(self, method: str, edit: Edit, options: dict[str, Any]) -> Erasure:
        """One erasure; raises RefusalError for a list of which the method says that it cannot be erased."""
        try:
            return erase(self.model.pipeline, concepts_of(edit), method=method, **options)
        except EffaceError as error:
            if edit.draw is None or isinstance(error, UsageError):
                raise
            raise RefusalError(str(error)) from error

    def _made(self, method: str, target: Target) -> list[Path]:
        """Files of a row's erasures; none of a list that the method refuses, which is written down."""
        note = refusal_file(self.results.path(method, target.edits[0]))
        try:
            made = [self.erasure(method, edit) for edit in target.edits]
        except RefusalError as error:
            write_atomically(note, str(error).encode())
            return []
        note.unlink(missing_ok=True)
        return made

    def run(
        self,
        progress: Progress = silent,
        say: Callable[[str], None] = lambda text: None,
        engine: Engine = HERE,
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Make the erasures, draw and judge what is missing.

        Args:
            progress: told the share of units that is done, and a line about it.
            say: called with a sentence about the work.
            engine: where units are done.
            loading: arguments of `efface.load` for the engine's workers.
        """
        files: dict[str, Path] = {}
        units = self.units(files)
        say(f"{len(units)} units of up to 16 pictures, {len(self.ledger.missing(units))} still to do")
        run_on(engine, WorkerSpec("emoji", judges, files, loading), units, self.ledger, progress, model=self.model)

    def rows(self) -> list[Row]:
        """The rows of the table with their means, from the ledger alone."""
        return with_means(self.results.rows())


def judges() -> dict[str, Judge]:
    """What looks at every picture."""
    return {what: embedded_judge("emoji", what) for what in ("object", "style")}
