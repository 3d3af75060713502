"""How much of a benchmark's wall time is spent in the denoiser, and its pictures a second beside a bare loop.

    python benchmarks/throughput.py               # about a minute on two idle cores
    python benchmarks/throughput.py --units 1     # a look

The engine draws units of 16 pictures of the embedded canvas, half of them with an erasure attached, judges them by both
judges, and records them in a ledger with a flush to disk for each. The bare loop calls the diffusers pipeline itself on
the same prompts and seeds, batch by batch, and does nothing with the pictures. Both take turns in this process.

`denoiser_share`: seconds inside the denoiser over the wall time of the engine, from opening the ledger to its last flush.
What counts as inside is each call of the UNet, guided halves together, and the hooks by which an erasure edits what goes
in or comes out of it; text encoding, scheduler steps, guidance, decoding, attaching, judging and writing are outside. On
a CPU a judge that works in its own thread slows the denoiser down; that time counts as the denoiser's here, but it lowers
`vs_bare`, pictures a second of the engine over those of the bare loop.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import tyro

from efface.api.erase import erase
from efface.bench.engine import Worker, run, setting_of
from efface.bench.ledger import Ledger
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.run import judges
from efface.bench.unit import Unit, units_of
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.settings import GUIDANCE, STEPS

BATCH = 16


class Clock:
    """Seconds inside something."""

    seconds = 0.0


@contextmanager
def timed(model: Model) -> Iterator[Clock]:
    """Count the time of every call of the model's denoiser."""
    clock, predict = Clock(), model.family.predict

    def counted(*args: Any) -> torch.Tensor:
        started = time.perf_counter()
        found = predict(*args)
        if found.is_cuda:
            torch.cuda.synchronize()
        clock.seconds += time.perf_counter() - started
        return found

    model.family.predict = counted  # type: ignore[method-assign]
    try:
        yield clock
    finally:
        del model.family.predict


def engine(worker: Worker, units: Sequence[Unit]) -> tuple[float, float]:
    """Wall time of the engine on units, and the part of it inside the denoiser."""
    with tempfile.TemporaryDirectory() as folder, timed(worker.model) as clock:
        started = time.perf_counter()
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        run(worker, units, ledger)
        wall = time.perf_counter() - started
        ledger.close()
    return wall, clock.seconds


def bare(model: Model, units: Sequence[Unit]) -> float:
    """Wall time of the pipeline's own call on the same pictures."""
    started = time.perf_counter()
    for unit in units:
        generators = [torch.Generator().manual_seed(seed) for seed in unit.seeds]
        model.pipeline(list(unit.prompts), generator=generators, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    return time.perf_counter() - started


def main(units: int = 4, rounds: int = 2, method: str = "uce", concept: str = "church") -> None:
    """Measure both.

    Args:
        units: of 16 pictures in each round, half of them with the erasure (at least one).
        rounds: of each; the figures are of all rounds together.
        method: of the erasure.
        concept: that it erases.
    """
    model = Model(load("emoji"))
    worker = Worker(model, {"erasure": erase(model.pipeline, concept, method=method)}, judges())
    setting, work = setting_of(model, worker.judges, steps=STEPS, guidance=GUIDANCE), Plan((method,)).work
    plain, erased = (units_of(setting, names, work, batch=BATCH) for names in ((), ("erasure",)))
    half = units // 2
    chosen = [*plain[: units - half], *erased[:half]]
    bare(model, chosen[:1])  # the first call of a process is slower
    walls, inside, loops = 0.0, 0.0, 0.0
    for number in range(rounds):
        loop = bare(model, chosen)
        wall, denoising = engine(worker, chosen)
        walls, inside, loops = walls + wall, inside + denoising, loops + loop
        print(
            f"round {number + 1}: bare {loop:.2f} s, engine {wall:.2f} s, of it denoiser {denoising:.2f} s", flush=True
        )
    count = rounds * sum(len(unit.prompts) for unit in chosen)
    print(f"{count / walls:.2f} pictures a second, bare {count / loops:.2f}, {torch.get_num_threads()} threads")
    print(json.dumps({"denoiser_share": round(inside / walls, 4), "vs_bare": round(loops / walls, 4)}))


if __name__ == "__main__":
    tyro.cli(main)
