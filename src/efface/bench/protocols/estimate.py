"""What a run of a protocol will cost, at the rate that this machine is measured at."""

from __future__ import annotations

import json
import time
from typing import Any

from efface.bench.engine import Worker
from efface.bench.estimate import Cost
from efface.bench.measures import Distance
from efface.bench.protocols.run import Run
from efface.bench.unit import Unit

PROBES = (2, 4)
"""Denoising steps of two small batches, from which the seconds of a step and of all else follow."""


def cost(run: Run, *, erasures: int | None = None, devices: int = 1) -> Cost:
    """What a run will cost at the rate that this machine is measured at.

    Args:
        run: with everything that it will need.
        erasures: plan for so many instead of those that the run was given.
        devices: such as the one that was measured, which share the work evenly.
    """
    each = len(run.protocol.samples)
    count = len(run.erasures) if erasures is None else erasures
    pictures = each * (1 + count)
    missing = pictures if erasures is not None else sum(len(unit.prompts) for unit in run.missing())
    if not missing:
        return Cost(each, each * count, count, 0, 0.0, devices, 0.0, 0)
    seconds, recorded, raw = measured(run)
    kept = sum(isinstance(o, Distance) for o in run.observers.values()) * each * missing / pictures
    saved = missing if run.save else 0
    size = missing * recorded + (kept + saved) * raw
    return Cost(each, each * count, count, missing, seconds, devices, missing * seconds / devices, round(size))


def measured(run: Run) -> tuple[float, float, int]:
    """Seconds of a picture, bytes of its entry, and bytes of its pixels, on a batch of the run's first samples."""
    on_cpu = next(run.model.networks()[0].module.parameters()).device.type == "cpu"
    samples = run.protocol.samples[: 1 if on_cpu else run.drawing.batch]
    unit = Unit(run.setting, (), tuple(s.prompt for s in samples), tuple(s.seed for s in samples))
    settings: dict[str, Any] = {
        "guidance": run.drawing.guidance,
        "side": run.drawing.side,
        "batch": len(samples),
        "checked": False,
    }
    times = []
    pictures = []
    for steps in PROBES if on_cpu else (PROBES[0], *PROBES):  # other devices warm up first
        started = time.perf_counter()
        pictures = run.model.draw(unit.prompts, seeds=unit.seeds, steps=steps, **settings)
        times.append(time.perf_counter() - started)
    step = max(0.0, (times[-1] - times[-2]) / (PROBES[1] - PROBES[0]))
    drawing = max(0.0, times[-2] - PROBES[0] * step) + run.drawing.steps * step
    started = time.perf_counter()
    looking = {name: o for name, o in run.observers.items() if not isinstance(o, Distance)}
    entries = Worker(run.model, {}, looking).judged(unit, pictures)
    judging = time.perf_counter() - started
    width, height = pictures[0].size
    # Judging overlaps drawing, so the slower of the two counts.
    return max(drawing, judging) / len(samples), len(json.dumps(entries)) / len(samples), 3 * width * height
