"""What a run of the canvas's protocol will cost, at the rate of one unit drawn, judged and encoded on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

from efface.bench.contact_sheet import sheet_of
from efface.bench.engine import Worker, setting_of
from efface.bench.estimate import Cost
from efface.bench.ledger import Ledger
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.run import judges
from efface.bench.unit import units_of
from efface.models.model import Model
from efface.profiles.emoji.settings import GUIDANCE, STEPS


def cost(model: Model, plan: Plan, folder: Path, *, devices: int = 1, sheets: bool = False) -> Cost:
    """The cost of what a folder does not hold yet; makes no file.

    Args:
        model: the canvas.
        plan: what is drawn.
        folder: of the run, which may not exist.
        devices: such as this one, each with a pipeline of its own.
        sheets: whether pictures are kept.
    """
    each = len(plan.work)
    rows = len(plan.methods) * len(plan.targets)
    made = len(plan.methods) * len({edit for target in plan.targets for edit in target.edits})
    missing = max(0, plan.pictures - _recorded(folder))
    if not missing:
        return Cost(each, each * rows, made, 0, 0.0, devices, 0.0, 0)
    seconds, size = _measured(model, plan, sheets)
    return Cost(each, each * rows, made, missing, seconds, devices, missing * seconds / devices, round(missing * size))


def _recorded(folder: Path) -> int:
    """Pictures in a folder's ledger."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        return 0
    ledger = Ledger(path)
    count = ledger.pictures()
    ledger.close()
    return count


def _measured(model: Model, plan: Plan, sheets: bool) -> tuple[float, float]:
    """Seconds and bytes on disk of a picture, by the plan's first unit; judging overlaps drawing and is not counted."""
    unit = units_of(setting_of(model, judges(), steps=STEPS, guidance=GUIDANCE, side=plan.side), (), plan.work)[0]
    worker = Worker(model, {}, judges())
    model.draw(unit.prompts[:1], seeds=unit.seeds[:1], steps=1)  # the first call of a process is slower
    started = time.perf_counter()
    pictures = worker.draw(unit)
    seconds = (time.perf_counter() - started) / len(pictures)
    size = len(json.dumps(unit.to_json())) + len(json.dumps(worker.judged(unit, pictures)))
    return seconds, (size + (len(sheet_of(unit, pictures)) if sheets else 0)) / len(pictures)
