"""What a run will cost, said before it starts: pictures, seconds at the measured rate, and disk."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from efface.bench.engine import Worker
from efface.bench.measures import Distance
from efface.bench.protocols.run import Run
from efface.bench.unit import Unit

PROBES = (2, 4)
"""Denoising steps of two small batches, from which the seconds of a step and of all else follow."""


class Cost(NamedTuple):
    """Of what is still to be drawn; the pictures of the unerased model are shared by all erasures."""

    unerased: int
    """Pictures of the unerased model in the protocol."""
    erased: int
    """Pictures of erased models in the protocol."""
    erasures: int
    missing: int
    """Pictures without a result."""
    seconds_each: float
    """A picture's, on one device."""
    devices: int
    seconds: float
    """Of what is missing, divided over the devices."""
    bytes: int
    """The most that what is missing takes on disk; compression of pictures is not counted on."""

    def __str__(self) -> str:
        where = "one device" if self.devices == 1 else f"{self.devices} devices"
        erasures = "one erasure" if self.erasures == 1 else f"{self.erasures} erasures"
        return (
            f"{self.unerased:,} pictures of the unerased model and {self.erased:,} of {erasures}, "
            f"{self.missing:,} still to draw: about {_duration(self.seconds)} on {where} at {self.seconds_each:.3g} s a "
            f"picture, at most {_size(self.bytes)} on disk"
        )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return self._asdict()


def cost(run: Run, *, erasures: int | None = None, devices: int = 1) -> Cost:
    """What a run will cost at the rate that this machine is measured at.

    Args:
        run: with everything that it will need.
        erasures: plan for so many instead of those that the run was given.
        devices: such as the one that was measured, which share the work evenly.
    """
    each = len(run.protocol.shots)
    count = len(run.given) if erasures is None else erasures
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
    """Seconds of a picture, bytes of its entry, and bytes of its pixels, on a batch of the run's first shots."""
    on_cpu = next(run.model.entries()[0].module.parameters()).device.type == "cpu"
    shots = run.protocol.shots[: 1 if on_cpu else run.drawing.batch]
    unit = Unit(run.setting, (), tuple(s.prompt for s in shots), tuple(s.seed for s in shots))
    settings: dict[str, Any] = {"guidance": run.drawing.guidance, "side": run.drawing.side, "batch": len(shots)}
    times, pictures = [], []
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
    return max(drawing, judging) / len(shots), len(json.dumps(entries)) / len(shots), 3 * width * height


def _size(count: int) -> str:
    """Bytes in the unit in which they are easily read."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"


def _duration(seconds: float) -> str:
    """Seconds in the unit in which they are easily read."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
