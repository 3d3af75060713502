"""Run units in this process: the denoiser draws the next one while the last one is judged and recorded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from efface.bench.contact_sheet import sheet_of
from efface.bench.ledger import Ledger
from efface.bench.observer import ImageMetric, Observer
from efface.bench.unit import Setting, Unit
from efface.erasures import Erasure
from efface.errors import UsageError
from efface.io.progress import Progress, silent
from efface.models.fingerprint import fingerprint
from efface.models.model import Model
from efface.models.sampling import scheduler_digest


class Worker:
    """A pipeline that draws units, and the judges that look at them; one process or one actor has one.

    Args:
        model: unerased; erasures are attached and taken off as units need them.
        erasures: sha256 of the file -> erasure.
        judges: judges and measures by their short names.
    """

    shares = False
    """Whether judges share their processor with a denoiser."""

    def __init__(self, model: Model, erasures: Mapping[str, Erasure], judges: Mapping[str, Observer]):
        self.model = model
        self.erasures = erasures
        self.judges = judges
        self.shares = next(model.networks()[0].module.parameters()).device.type == "cpu"
        self.attached: tuple[str, ...] = ()
        self.stack = ExitStack()

    def draw(self, unit: Unit) -> list[Any]:
        """The pictures of a unit."""
        if unit.erasures != self.attached:
            self.close()
            for name in unit.erasures:
                self.stack.enter_context(self.erasure(name).attached(self.model.pipeline))
            self.attached = unit.erasures
        setting = unit.setting
        options = {"steps": setting.steps, "negative": setting.negative, "side": setting.side}
        if not unit.guidances:
            text = self.model.encode(unit.prompts)
            return self.model.sample(text, seeds=unit.seeds, guidance=setting.guidance, **options)
        pictures = []
        for prompt, seed, guidance in zip(unit.prompts, unit.seeds, unit.guidances, strict=True):
            pictures += self.model.sample(self.model.encode([prompt]), seeds=[seed], guidance=guidance, **options)
        return pictures

    def judged(self, unit: Unit, pictures: Sequence[Any]) -> list[dict[str, Any]]:
        """One entry a picture of a unit: for each judge its label, the label's score, whether the picture is intact, and
        what a detector counted (classes that it found); for each measure what it found."""
        with _aside() if self.shares else nullcontext():
            return self._judged(unit, pictures)

    def _judged(self, unit: Unit, pictures: Sequence[Any]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [{} for _ in pictures]
        for name, judge in self.judges.items():
            if isinstance(judge, ImageMetric):
                for entry, measured in zip(entries, judge.measure(unit, pictures), strict=True):
                    entry |= {name: measured} if measured else {}
                continue
            verdicts = judge(pictures)
            best = verdicts.scores.amax(1).tolist()
            for entry, label, score, intact in zip(
                entries, verdicts.labels, best, verdicts.intact.tolist(), strict=True
            ):
                entry[name] = {"label": label, "score": round(score, 6), "intact": bool(intact)}
            if verdicts.counts is not None:
                for entry, counts in zip(entries, verdicts.counts.tolist(), strict=True):
                    entry[name]["counts"] = {c: int(n) for c, n in zip(judge.classes, counts, strict=True) if n}
        return entries

    def close(self) -> None:
        """Take everything off."""
        self.stack.close()
        self.attached = ()

    def erasure(self, name: str) -> Erasure:
        """The erasure of that sha256; raises UsageError where it was not given."""
        if name not in self.erasures:
            raise UsageError(f"the erasure {name[:12]}… of a unit was not given to this run: name its file.")
        return self.erasures[name]


def run(worker: Worker, units: Sequence[Unit], ledger: Ledger, progress: Progress = silent) -> int:
    """Do every unit that has no result yet, those of the same erasures together; returns how many were done.

    Two units are in flight at most when the process is killed, one drawn and one judged: nothing that was recorded is
    computed again.

    Raises:
        EffaceError: another process writes to the ledger, or it cannot be written.
    """
    missing = sorted(ledger.missing(units), key=lambda unit: unit.erasures)
    pending: Future[None] | None = None
    with ledger.writing(), ThreadPoolExecutor(1) as judging:
        try:
            for number, unit in enumerate(missing):
                started = time.perf_counter()
                pictures = worker.draw(unit)
                seconds = time.perf_counter() - started
                if pending is not None:
                    pending.result()
                pending = judging.submit(_finish, worker, ledger, unit, pictures, seconds)
                progress(number / len(missing), f"{number} of {len(missing)} units")
            if pending is not None:
                pending.result()
        finally:
            worker.close()
    progress(1.0, f"{len(missing)} of {len(missing)} units")
    return len(missing)


@contextmanager
def _aside() -> Iterator[None]:
    """One thread for what runs beside a denoiser on the processor: with more, each waits for the other's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread alone; the denoiser's thread keeps its own number
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _finish(worker: Worker, ledger: Ledger, unit: Unit, pictures: Sequence[Any], seconds: float) -> None:
    sheet = sheet_of(unit, pictures) if ledger.sheets else None
    ledger.record(unit, worker.judged(unit, pictures), seconds, sheet)


def setting_of(
    model: Model,
    judges: Mapping[str, Observer],
    *,
    steps: int,
    guidance: float,
    side: int | tuple[int, int] | None = None,
    negative: str | None = None,
) -> Setting:
    """The setting of a run on a model as it stands."""
    base = json.dumps(fingerprint(model).to_json(), sort_keys=True)
    return Setting(
        hashlib.sha256(base.encode()).hexdigest(),
        str(next(model.networks()[0].module.parameters()).dtype).removeprefix("torch."),
        scheduler_digest(model.pipeline),
        steps,
        guidance,
        side,
        negative,
        tuple(f"{name}: {judge.name}" for name, judge in judges.items() if judge.name),
        torch.get_num_threads(),
    )
