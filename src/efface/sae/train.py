"""Train one autoencoder per site on rounds of activations; a run that was interrupted resumes exactly where it was."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
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
from efface.sae.loss import Workspace
from efface.sae.site_trainer import LabelledSource, SiteTrainer, Source


def train(
    source: Source,
    config: SAETrainConfig,
    folder: Path,
    *,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    every: int = 20,
    save_seconds: float = 60.0,
    notes: dict[str, Any] | None = None,
    device: torch.device | None = None,
    start: Mapping[str, SparseAutoencoder] | None = None,
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
        device: where they are trained; CUDA where there is one by default.
        start: site name -> the autoencoder whose weights training begins with; random ones by default.

    Raises:
        UsageError: labels are asked for and the source has none, or `start` has other shapes.
        EffaceError: activations that are not finite, a folder that holds another run, or a process that was lost.
    """
    labelled = source if isinstance(source, LabelledSource) and source.concepts else None
    if config.supervised != "none" and labelled is None:
        raise UsageError("training with labels needs pictures that are drawn meanwhile, and what each prompt shows.")
    if config.supervised != "none" and world() > 1:
        raise UsageError("training with labels runs in one process, whose pictures choose the concepts' latents.")
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(source, config, folder, notes or {}, device, start or {})
    began = time.monotonic()
    saved = began
    while run.step < config.steps:
        vectors = run.vectors(source)
        groups = labelled.groups() if labelled is not None and config.supervised != "none" else {}
        orders = {name: _order(len(v), config, run.round) for name, v in vectors.items()}
        size = min(config.batch, *map(len, orders.values()))  # a small round is one batch
        if size == 0:
            raise UsageError(f"a round gives no vector in {config.passes:g} passes: draw more pictures a round.")
        last = min(run.first + min(len(order) // size for order in orders.values()), config.steps)
        while run.step < last:
            begin = (run.step - run.first) * size
            with group_errors():
                lines = {
                    name: trainer.step(vectors[name][orders[name][begin : begin + size]], run.step, groups.get(name))
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
        run.workspaces.clear()  # the next round is drawn in their memory
    run.save()
    assigned = {name: trainer.assigned for name, trainer in run.trainers.items()}
    saes = run.finished()
    if rank() == 0:
        for name, sae in saes.items():
            latents, entries = assigned[name], dict(notes or {})
            if labelled is not None and latents is not None:
                entries["assigned"] = dict(zip(labelled.concepts, latents.tolist(), strict=True))
            save_sae(sae, folder / name, **entries)
    return saes


class _Run:
    """A run in its folder: trainers, progress, log and checkpoint."""

    def __init__(
        self,
        source: Source,
        config: SAETrainConfig,
        folder: Path,
        notes: dict[str, Any],
        device: torch.device | None,
        start: Mapping[str, SparseAutoencoder],
    ):
        self.folder = folder
        self.step = self.round = self.first = 0
        described = {"sites": source.names, "world": world(), "config": asdict(config), "notes": notes}
        self._require_same(json.loads(json.dumps(described)))
        stored = self._stored()
        self.drawn: dict[str, Tensor] | None = None
        if stored is None:
            self.drawn = source.round(0)  # its width is the trainers'
            widths = {name: vectors.shape[1] for name, vectors in self.drawn.items()}
        else:
            widths = {name: stored[f"{name}|coder.W_dec"].shape[1] for name in source.names}
        if rank() == 0:
            write_atomically(folder / "run.json", json.dumps(described, indent=1).encode())
        self.workspaces: dict[tuple[int, ...], Workspace] = {}
        self.trainers = {
            name: SiteTrainer(widths[name], config, source.reads, device=device, workspaces=self.workspaces)
            for name in source.names
        }
        for name, sae in start.items():
            self.trainers[name].begin_from(sae)
        if stored is not None:
            self._restore(stored)
        self._cut_log()

    def _require_same(self, described: dict[str, Any]) -> None:
        """Raise EffaceError where the folder holds another run."""
        path = self.folder / "run.json"
        stored = json.loads(path.read_text()) if path.exists() else described
        # Options that an older efface did not know had their defaults.
        stored["config"] = json.loads(json.dumps(asdict(SAETrainConfig()))) | stored.get("config", {})
        if stored != described:
            other = [k for k in described if stored.get(k) != described[k]]
            raise EffaceError(
                f"{self.folder} holds a run with another {' and '.join(other)}: name another folder, or remove that one."
            )

    def vectors(self, source: Source) -> dict[str, Tensor]:
        """The vectors of the round that comes now, which is drawn once."""
        drawn, self.drawn = self.drawn, None
        return source.round(self.round) if drawn is None else drawn

    def _stored(self) -> dict[str, Tensor] | None:
        """The checkpoint's tensors; None where there is none."""
        if not (self.folder / "state.safetensors").exists():
            return None
        try:
            return read_state(self.folder / "state.safetensors")[0]
        except SafetensorError as error:
            raise EffaceError(
                f"{self.folder}'s checkpoint is damaged ({error}): remove the folder and begin anew."
            ) from error

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.step, self.round, self.first = tensors.pop("place").tolist()
        for name, trainer in self.trainers.items():
            trainer.restore(with_prefix(tensors, f"{name}|"))

    def _cut_log(self) -> None:
        """Forget the lines after the checkpoint, or all where there is none yet: they will be written again."""
        log = self.folder / "log.jsonl"
        if rank() == 0 and log.exists():
            whole = [line for line in log.read_text().splitlines() if line.endswith("}")]  # the last may be cut short
            kept = [line for line in whole if json.loads(line)["step"] < self.step]
            write_atomically(log, "".join(f"{line}\n" for line in kept).encode())

    def save(self) -> None:
        """Write the whole state to a temporary name, then rename."""
        if rank() == 0:
            tensors = {f"{name}|{k}": v for name, trainer in self.trainers.items() for k, v in trainer.state().items()}
            tensors["place"] = torch.tensor([self.step, self.round, self.first])
            write_state(self.folder / "state.safetensors", tensors)

    def finished(self) -> dict[str, SparseAutoencoder]:
        """The autoencoders; what training alone needed, three times their memory, is given back."""
        saes = {name: trainer.sae for name, trainer in self.trainers.items()}
        self.trainers.clear()
        return saes

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
