"""What every stage of training shares: a seed per step, a checkpoint that survives a kill, a running average of weights."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALF = DEVICE.type == "cuda"
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.benchmark = True


def autocast() -> torch.autocast:
    """bfloat16 where the device is a GPU; nothing elsewhere."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


class Half(nn.Module):
    """A module computed in bfloat16 on a GPU, its weights and their gradients in float32; as it is elsewhere.

    Autocast would compute every normalisation in float32, and half of a small network's time is normalisation.

    Args:
        module: to compute.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The module's output; floating-point arguments are cast, those in dictionaries too."""
        if not HALF:
            return self.module(*arguments, **named)
        weights = {k: v.bfloat16() for k, v in self.module.named_parameters()}
        return torch.func.functional_call(self.module, weights, tuple(map(half, arguments)), half(named))


def half(value: Any) -> Any:
    """A floating-point tensor in bfloat16, also inside dictionaries; anything else as it is."""
    if isinstance(value, dict):
        return {k: half(v) for k, v in value.items()}
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one training step, so that a resumed run draws what the unbroken one would have drawn."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


class Run:
    """A training run in a folder: modules, optimiser, averaged weights, log; saved atomically and resumed.

    Args:
        folder: where `state.safetensors` and `log.jsonl` live.
        modules: name -> module to train.
        optimiser: over all parameters of the modules.
        decay: of the exponential moving average of the weights; it warms up over the first steps.
    """

    def __init__(self, folder: Path, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer, decay: float):
        self.folder, self.modules, self.optimiser, self.decay = folder, modules, optimiser, decay
        weights = self._weights()
        self.averaged = {k: v.detach().clone() for k, v in weights.items()}
        self._values = [v for v in weights.values() if v.is_floating_point()]
        self._averages = [self.averaged[k] for k, v in weights.items() if v.is_floating_point()]
        self.step = 0
        self.started = self.saved_at = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "state.safetensors").exists():
            self._load()

    def _weights(self) -> dict[str, Tensor]:
        return {f"{name}.{k}": v for name, m in self.modules.items() for k, v in m.state_dict().items()}

    def _load(self) -> None:
        state = load_file(self.folder / "state.safetensors", device=str(DEVICE))
        for key, value in self._weights().items():
            value.copy_(state[f"weights.{key}"])
            self.averaged[key].copy_(state[f"averaged.{key}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key in (k for k in state if k.startswith("optimiser.")):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = state[key]
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        for index, found in moments.items():
            own = self.optimiser.state[parameters[index]]
            for name, value in found.items():
                if name in own:  # a captured step goes on writing there
                    own[name].copy_(value)
                else:
                    own[name] = value
        self.step = int(state["step"])
        print(f"resuming {self.folder} at step {self.step}", flush=True)

    def save(self) -> None:
        """Write the whole state to a temporary name, then rename."""
        state = {f"weights.{k}": v for k, v in self._weights().items()}
        state |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        state["step"] = torch.tensor(self.step)
        partial = self.folder / "state.partial"
        save_file({k: v.contiguous() for k, v in state.items()}, partial)
        os.replace(partial, self.folder / "state.safetensors")
        self.saved_at = time.monotonic()

    def steps(
        self, total: int, lr: float, hold: float = 0.5, save_every: float = 180, seconds: float | None = None
    ) -> Iterator[int]:
        """Count from where the run stands to `total`, with the learning rate of each step set.

        Args:
            total: steps of the whole run.
            lr: learning rate before the cosine tail.
            hold: part of the run after which the tail begins.
            save_every: seconds between checkpoints; one more is written at the end.
            seconds: time of the whole run: whichever of both is nearer to its end sets the learning rate, and it stops there.
        """
        while self.step < total:
            share = self.step / total
            if seconds is not None:
                share = max(share, (time.monotonic() - self.started) / seconds)
                if share >= 1:
                    break
            while (self.folder / "PAUSE").exists():
                time.sleep(5)
            for group in self.optimiser.param_groups:
                rate = lr * min(1.0, (self.step + 1) / 100) * cosine_tail(share, hold)
                if isinstance(group["lr"], Tensor):  # a captured step reads it
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            yield self.step
            self.step += 1
            self._average()
            if time.monotonic() - self.saved_at > save_every:
                self.save()
        self.save()

    def descend(self, loss: Tensor) -> None:
        """One optimiser step, with gradients clipped to norm 1."""
        descend_on(self.optimiser, list(self.modules.values()), loss)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)

    def load_averaged(self) -> None:
        """Put the averaged weights into the modules (for saving or judging)."""
        for key, value in self._weights().items():
            value.copy_(self.averaged[key])

    def log(self, every: int, **figures: float) -> None:
        """Every so many steps, append one line to `log.jsonl` and print it."""
        if self.step % every:
            return
        figures |= {"seconds": time.monotonic() - self.started}
        line = {"step": self.step} | {k: round(float(v), 5) for k, v in figures.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{k} {v}" for k, v in line.items()), flush=True)


def descend_on(optimiser: torch.optim.Optimizer, modules: list[nn.Module], loss: Tensor) -> None:
    """One optimiser step, with each module's gradients clipped to norm 1."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for module in modules:
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()


def captured(step: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    """A step as one launch of a GPU: thousands of small kernels are begun faster by the GPU itself than one by one.

    Args:
        step: computes a loss of its inputs and descends; the optimiser's learning rate must be a tensor (0 while this runs).
        inputs: of the shapes that every step has.
    """
    fixed = {name: value.clone() for name, value in inputs.items()}
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step(fixed)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(fixed)

    def replay(given: dict[str, Tensor]) -> Tensor:
        for name, value in given.items():
            fixed[name].copy_(value)
        graph.replay()
        return loss

    return replay


def cosine_tail(share: float, hold: float = 0.5) -> float:
    """Learning-rate factor at a share of the run: constant until `hold`, then a cosine to zero."""
    return 0.5 * (1 + math.cos(math.pi * max(0.0, (share - hold) / (1 - hold))))


def stage(description: str, *, work: str = "build/emoji", **defaults: Any) -> argparse.Namespace:
    """The options of a stage: `--work`, and one for each default, of its type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(work), help="folder of the recipe's products")
    for name, default in defaults.items():
        kind = float if default is None else type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    return parser.parse_args()


def time_left(options: argparse.Namespace) -> float | None:
    """Seconds that a run may take, of `--seconds` or of `--until` (a Unix time); None without a limit."""
    return options.until - time.time() if options.until else options.seconds


def replace_folder(partial: Path, folder: Path) -> None:
    """Put a finished folder in its place."""
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def wait_for(*paths: Path) -> None:
    """Return once all of these exist: a stage may begin to load beside the one that it needs."""
    while not all(path.exists() for path in paths):
        time.sleep(0.2)
