"""Train one autoencoder per site on rounds of activations; a run that was interrupted resumes exactly where it was."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.io.atomic import write_atomically
from efface.io.checkpoint import read_state, with_prefix, write_state
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.distributed import group_errors, rank, world
from efface.sae.files import save_sae
from efface.sae.site_trainer import SiteTrainer, Source


def train(
    source: Source,
    config: SAETrainConfig,
    folder: Path,
    *,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    every: int = 20,
    save_seconds: float = 60.0,
    notes: dict[str, Any] | None = None,
) -> dict[str, SparseAutoencoder]:
    """Train an autoencoder for every site of a source; resumes if the folder holds an unfinished run.

    The folder holds `run.json`, `log.jsonl`, `state.safetensors` while training, and a folder a site at the end.

    Args:
        source: gives rounds of activations.
        config: options of training.
        folder: folder of the run.
        report: called with every line of the log.
        every: steps between lines of the log.
        save_seconds: seconds between checkpoints.
        notes: further entries of `cfg.json`, such as how activations are read.

    Raises:
        EffaceError: activations that are not finite, a folder that holds another run, or a process that was lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(source, config, folder, notes or {})
    began = time.monotonic()
    saved = began
    while run.step < config.steps:
        vectors = source.round(run.round)
        orders = {name: _order(len(v), config, run.round) for name, v in vectors.items()}
        last = min(run.first + min(len(order) // config.batch for order in orders.values()), config.steps)
        if last == run.first:
            raise UsageError(
                f"a round gives {min(map(len, orders.values()))} vectors, fewer than a batch of {config.batch}: "
                "draw more pictures a round or take smaller batches."
            )
        while run.step < last:
            start = (run.step - run.first) * config.batch
            with group_errors():
                lines = {
                    name: trainer.step(vectors[name][orders[name][start : start + config.batch]], run.step)
                    for name, trainer in run.trainers.items()
                }
            if run.step % every == 0 or run.step == config.steps - 1:
                run.log(lines, time.monotonic() - began, report)
            run.step += 1
            if time.monotonic() - saved > save_seconds:
                run.save()
                saved = time.monotonic()
        run.round += 1
        run.first = run.step
    run.save()
    if rank() == 0:
        for name, trainer in run.trainers.items():
            save_sae(trainer.sae, folder / name, **(notes or {}))
    return {name: trainer.sae for name, trainer in run.trainers.items()}


class _Run:
    """A run in its folder: trainers, progress, log and checkpoint."""

    def __init__(self, source: Source, config: SAETrainConfig, folder: Path, notes: dict[str, Any]):
        self.folder = folder
        self.step = self.round = self.first = 0
        first = source.round(0)
        self.trainers = {name: SiteTrainer(first[name].shape[1], config, source.reads) for name in source.names}
        described = {"sites": source.names, "world": world(), "config": asdict(config), "notes": notes}
        self._require_same(json.loads(json.dumps(described)))
        if (folder / "state.safetensors").exists():
            self._load()

    def _require_same(self, described: dict[str, Any]) -> None:
        """Write `run.json`, or raise EffaceError where the folder holds another run."""
        path = self.folder / "run.json"
        stored = json.loads(path.read_text()) if path.exists() else described
        # Options that an older efface did not know had their defaults.
        stored["config"] = json.loads(json.dumps(asdict(SAETrainConfig()))) | stored.get("config", {})
        if stored != described:
            other = [k for k in described if stored.get(k) != described[k]]
            raise EffaceError(
                f"{self.folder} holds a run with another {' and '.join(other)}: name another folder, or remove that one."
            )
        if rank() == 0:
            write_atomically(path, json.dumps(described, indent=1).encode())

    def _load(self) -> None:
        try:
            tensors, _ = read_state(self.folder / "state.safetensors")
        except SafetensorError as error:
            raise EffaceError(
                f"{self.folder}'s checkpoint is damaged ({error}): remove the folder and begin anew."
            ) from error
        self.step, self.round, self.first = tensors.pop("place").tolist()
        for name, trainer in self.trainers.items():
            trainer.restore(with_prefix(tensors, f"{name}|"))
        if rank() == 0 and (log := self.folder / "log.jsonl").exists():
            # Lines after the checkpoint will be written again.
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] < self.step]
            write_atomically(log, "".join(f"{line}\n" for line in kept).encode())

    def save(self) -> None:
        """Write the whole state to a temporary name, then rename."""
        if rank() == 0:
            tensors = {f"{name}|{k}": v for name, trainer in self.trainers.items() for k, v in trainer.state().items()}
            tensors["place"] = torch.tensor([self.step, self.round, self.first])
            write_state(self.folder / "state.safetensors", tensors)

    def log(self, lines: dict[str, dict[str, float]], seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
        """Append one line to `log.jsonl` and report it."""
        if rank() == 0:
            line = {"step": self.step, "seconds": round(seconds, 1), "sites": lines}
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            report(line)


def _order(rows: int, config: SAETrainConfig, round_index: int) -> Tensor:
    """The order in which a round's vectors are used: `passes` shuffles, one after the other."""
    seed = (config.seed * 1_000_003 + round_index) * 1009 + rank()
    generator = torch.Generator().manual_seed(seed)
    shuffles = [torch.randperm(rows, generator=generator) for _ in range(math.ceil(config.passes))]
    return torch.cat(shuffles)[: int(rows * config.passes)]
