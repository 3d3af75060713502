"""What the trainer adds to a step of ESD, CA and SPM, and the memory that a step takes, at SD 1.5's true dimensions.

    python benchmarks/trained_speed.py                    # 2.2 GB in the cache folder, 8 GB of memory, some ten minutes
    python benchmarks/trained_speed.py --methods esd --no-memory

Random weights in float32, 32 x 32 latents. Every call of the UNet in a step is recorded and made again right after it, with
nothing around it: the same inputs, the same layers asked for gradients, one backward pass for each that had one. A step's ratio is
its seconds over those. Memory is the peak of a process of its own that takes one step of ESD-x (batch 1, float32, checkpointing),
over all weights, and gradients, copies and optimiser states of what trains.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import tyro
from real_models import build

from efface.api.erase import erase
from efface.concepts.concept import Concept
from efface.models.load import load
from efface.models.model import Model
from efface.training import loop
from efface.training.holders import Holder

SIDE = 256
OPTIONS: dict[str, dict[str, Any]] = {
    "esd": {"draw_steps": 4, "keep": ()},
    "ca": {"draw_steps": 2, "images": 2, "batch": 1, "keep": ()},
    "spm": {"draw_steps": 4, "keep": (), "anchors": "noise", "sampled": 1, "warmup": 0},
}
"""Few sampler steps, so that the trainer's own work weighs as much as it can."""
CHURCH = Concept("church", anchor="a building", templates=("a {}",))


class Calls:
    """The calls of a network, to be made again."""

    def __init__(self, network: torch.nn.Module):
        self.network = network
        self.made: list[tuple[tuple[Any, ...], dict[str, Any], bool]] = []
        self.watched = True
        network.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _remember(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.watched:
            self.made.append((_detached(args), _detached(kwargs), torch.is_grad_enabled()))

    def again(self, held: Holder) -> float:
        """Make the calls again, with a backward pass for those that were asked for gradients; their seconds."""
        self.watched = False
        started = time.perf_counter()
        for args, kwargs, graded in self.made:
            if not graded:
                with torch.no_grad():
                    self.network(*args, **kwargs)
                continue
            with held.active():
                output: Any = self.network(*args, **kwargs)
                (output[0] if isinstance(output, tuple) else output.sample).square().mean().backward()
        seconds = time.perf_counter() - started
        self.watched = True
        self.made.clear()
        return seconds


def _detached(value: Any) -> Any:
    """Arguments of a call without their graph."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {name: _detached(part) for name, part in value.items()}
    return tuple(map(_detached, value)) if isinstance(value, tuple) else value


def ratio(pipeline: Any, method: str, steps: int) -> float:
    """The seconds of a method's steps over those of the passes in them; the first step is not counted."""
    calls = Calls(Model(pipeline).networks()[0].module)
    descend, taken, bare = loop._descend, [], []

    def timed(loss: Any, step: loop.Step, *rest: Any) -> float:
        calls.made.clear()
        started = time.perf_counter()
        value = descend(loss, step, *rest)
        seconds = time.perf_counter() - started
        again = calls.again(step.held)
        if step.number:
            taken.append(seconds)
            bare.append(again)
        print(f"{method}: step {step.number} {seconds:.2f} s, its passes alone {again:.2f} s", flush=True)
        return value

    loop._descend = timed
    try:
        erase(pipeline, CHURCH, method=method, iterations=steps + 1, side=SIDE, **OPTIONS[method])
    finally:
        loop._descend = descend
    return sum(taken) / sum(bare)


def peak(folder: str) -> None:
    """Take one step of ESD-x in this process, and print its peak memory over what it has to hold."""
    pipeline = load(folder, device="cpu", dtype="float32")
    seen: dict[str, int] = {}
    train = loop.train

    def watched(model: Model, held: Holder, *rest: Any, **options: Any) -> loop.Trained:
        seen["trained"] = sum(p.numel() * p.element_size() for p in held.parameters)
        return train(model, held, *rest, **options)

    loop.train = watched
    erase(pipeline, CHURCH, method="esd", iterations=1, side=SIDE, checkpointing=True, **OPTIONS["esd"])
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    needed = weights + 4 * seen["trained"]  # copies, gradients, and Adam's two moments
    used = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"weights_mb": weights >> 20, "trained_mb": seen["trained"] >> 20, "peak_mb": used >> 20,
                      "ratio": round(used / needed, 3)}))  # fmt: skip


def main(
    methods: tuple[str, ...] = tuple(OPTIONS),
    steps: int = 3,
    memory: bool = True,
    folder: Path | None = None,
) -> None:
    """Measure.

    Args:
        methods: of esd, ca and spm.
        steps: that are counted, of each.
        memory: also measure the peak of a step.
        folder: where the model lies; by default `efface-benchmarks` in the user's cache folder.
    """
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "efface-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    model = build("sd15", folder)
    figures: dict[str, float | None] = dict.fromkeys(("esd_step", "ca_step", "spm_step", "peak_ratio"))
    if memory:
        words = [sys.executable, "-c", f"import trained_speed; trained_speed.peak({str(model.resolve())!r})"]
        printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent).stdout
        answer = printed.splitlines()[-1]
        print(answer, flush=True)
        figures["peak_ratio"] = json.loads(answer)["ratio"]
    pipeline = load(str(model), device="cpu", dtype="float32") if methods else None
    for method in methods:
        figures[f"{method}_step"] = round(ratio(pipeline, method, steps), 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
