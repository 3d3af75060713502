"""What every stage of training shares: a seed per step, a checkpoint that survives a kill, a running average of weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU generator of one training step, so that a resumed run draws what the unbroken one would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


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
        self.averaged = {k: v.detach().clone() for k, v in self._weights().items()}
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
        current = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": moments, "param_groups": current["param_groups"]})
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

    def steps(self, total: int, lr: float, hold: float = 0.5, save_every: float = 180) -> Iterator[int]:
        """Count from where the run stands to `total`, with the learning rate of each step set.

        Args:
            total: steps of the whole run.
            lr: learning rate before the cosine tail.
            hold: part of the run after which the tail begins.
            save_every: seconds between checkpoints; one more is written at the end.
        """
        while self.step < total:
            for group in self.optimiser.param_groups:
                group["lr"] = lr * cosine_tail(self.step, total, hold=hold)
            yield self.step
            self.step += 1
            self._average()
            if time.monotonic() - self.saved_at > save_every:
                self.save()
        self.save()

    def descend(self, loss: Tensor) -> None:
        """One optimiser step, with gradients clipped to norm 1."""
        self.optimiser.zero_grad()
        loss.backward()
        for module in self.modules.values():
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        self.optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for key, value in self._weights().items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value, 1 - decay)

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


def cosine_tail(step: int, total: int, warm: int = 100, hold: float = 0.5) -> float:
    """Learning-rate factor: linear warm-up, constant until `hold` of the run, then a cosine to zero."""
    if step < warm:
        return (step + 1) / warm
    progress = max(0.0, (step / total - hold) / (1 - hold))
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
