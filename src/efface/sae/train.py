"""Train one autoencoder a site, all sites on the same pictures, from rounds of activations; resumes as if never stopped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from efface.erasures.file import write_atomically
from efface.errors import EffaceError, UsageError
from efface.sae.autoencoder import Coder, CoderConfig, geometric_median
from efface.sae.config import TrainConfig
from efface.sae.files import save_coder
from efface.sae.loss import Room, step, without_parallel_


class Source(Protocol):
    """Where activations come from: drawn anew (`harvest.Stream`) or from disk (`shards.Shards`)."""

    names: list[str]
    """Sites."""

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width); round `index` always holds the same ones."""
        ...


class Pupil:
    """The autoencoder of one site in training: weights, moments, and how long each latent has been silent."""

    def __init__(self, width: int, config: TrainConfig):
        shape = CoderConfig(width, config.latents or config.expansion * width, config.k, config.rule)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.coder, self.config = Coder(shape, seed=config.seed).to(self.device), config
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=config.lr, betas=(0.9, 0.999), fused=True)
        self.silent = torch.zeros(shape.latents, dtype=torch.long, device=self.device)
        self.began = False
        self.room: Room | None = None

    def learn(self, x: Tensor, step_number: int) -> dict[str, float]:
        """One step on vectors (rows width); returns the line of the log."""
        config, coder, x = self.config, self.coder, x.to(self.device)
        if not self.began:
            coder.b_dec.data = _same_everywhere(geometric_median(x))
            self.began = True
        total = config.steps * config.batch * _world()
        dead = self.silent > config.dead_after * total
        if self.room is None or len(self.room.product) != len(x):
            self.room = Room.of(coder, len(x))
        found = step(coder, x, multi_k=config.multi_k, dead=dead, alpha=config.alpha, room=self.room)
        gradients = found.gradients
        gradients["W_dec"] = without_parallel_(gradients["W_dec"], coder.W_dec)
        _average(list(gradients.values()))
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        for name, parameter in coder.named_parameters():
            parameter.grad = gradients[name] if norm <= config.clip else gradients[name].mul_(config.clip / norm)
        self.optimiser.param_groups[0]["lr"] = config.lr * (1 - step_number / config.steps)
        self.optimiser.step()
        coder.normalise()
        self._note(found.code.latents, found.code.values, len(x), step_number)
        return {
            "fvu": float(found.fvu),
            "auxk": float(found.auxk),
            "l0": len(found.code.values) / len(x),
            "dead": float(dead.float().mean()),
            "norm": float(norm),
        }

    def _note(self, latents: Tensor, values: Tensor, rows: int, step_number: int) -> None:
        """Remember which latents fired, and the least activation that was selected."""
        fired = torch.zeros(len(self.silent), device=self.device).index_fill_(0, latents, 1.0)
        _largest(fired)
        self.silent = torch.where(fired > 0, 0, self.silent + rows * _world())
        if self.config.rule == "batchtopk" and len(values):
            decay = 0.0 if step_number == 0 else 0.99
            self.coder.threshold.lerp_(_same_everywhere(values.min()), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        tensors = {f"coder.{k}": v for k, v in self.coder.state_dict().items()} | {"silent": self.silent}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        self.coder.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("coder.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key in (k for k in tensors if k.startswith("adam.")):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = tensors[key]
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.silent, self.began = tensors["silent"].to(self.device), True


def train(
    source: Source,
    config: TrainConfig,
    folder: Path,
    *,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    every: int = 20,
    save_seconds: float = 60.0,
    notes: dict[str, Any] | None = None,
) -> dict[str, Coder]:
    """Train an autoencoder for every site of a source, or go on with the run in `folder`.

    The folder holds `run.json`, `log.jsonl`, `state.safetensors` while training, and a folder a site at the end.

    Args:
        source: rounds of activations.
        config: of the training.
        folder: of the run.
        report: called with every line of the log.
        every: steps between lines.
        save_seconds: between checkpoints.
        notes: what `cfg.json` says besides, such as how activations are read.

    Raises:
        EffaceError: activations that are not finite, a folder that holds another run, or a process that was lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(source, config, folder, notes or {})
    began = saved = time.monotonic()
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
            place = (run.step - run.first) * config.batch
            with _group_errors():
                lines = {
                    name: pupil.learn(vectors[name][orders[name][place : place + config.batch]], run.step)
                    for name, pupil in run.pupils.items()
                }
            if run.step % every == 0 or run.step == config.steps - 1:
                run.log(lines, time.monotonic() - began, report)
            run.step += 1
            if time.monotonic() - saved > save_seconds:
                run.save()
                saved = time.monotonic()
        run.round, run.first = run.round + 1, run.step
    run.save()
    if _rank() == 0:
        for name, pupil in run.pupils.items():
            save_coder(pupil.coder, folder / name, **(notes or {}))
    return {name: pupil.coder for name, pupil in run.pupils.items()}


class _Run:
    """A run in its folder: pupils, where it stands, log and checkpoint."""

    def __init__(self, source: Source, config: TrainConfig, folder: Path, notes: dict[str, Any]):
        self.folder = folder
        self.step = self.round = self.first = 0
        first = source.round(0)
        self.pupils = {name: Pupil(first[name].shape[1], config) for name in source.names}
        described = {"sites": source.names, "world": _world(), "config": asdict(config), "notes": notes}
        self._require_same(json.loads(json.dumps(described)))
        if (folder / "state.safetensors").exists():
            self._load()

    def _require_same(self, described: dict[str, Any]) -> None:
        """Note what the run is, or refuse a folder that holds another one."""
        path = self.folder / "run.json"
        if path.exists() and (found := json.loads(path.read_text())) != described:
            other = [k for k in described if found.get(k) != described[k]]
            raise EffaceError(
                f"{self.folder} holds a run with another {' and '.join(other)}: name another folder, or remove that one."
            )
        if _rank() == 0:
            write_atomically(path, json.dumps(described, indent=1).encode())

    def _load(self) -> None:
        try:
            tensors = load_file(self.folder / "state.safetensors")
        except SafetensorError as error:
            raise EffaceError(
                f"{self.folder}'s checkpoint is damaged ({error}): remove the folder and begin anew."
            ) from error
        self.step, self.round, self.first = tensors.pop("place").tolist()
        for name, pupil in self.pupils.items():
            pupil.restore({k.removeprefix(f"{name}|"): v for k, v in tensors.items() if k.startswith(f"{name}|")})
        if _rank() == 0 and (log := self.folder / "log.jsonl").exists():
            # Lines after the checkpoint will be written again.
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] < self.step]
            write_atomically(log, "".join(f"{line}\n" for line in kept).encode())

    def save(self) -> None:
        """Write the whole state to a temporary name, then rename."""
        if _rank() == 0:
            tensors = {f"{name}|{k}": v for name, p in self.pupils.items() for k, v in p.state().items()}
            tensors["place"] = torch.tensor([self.step, self.round, self.first])
            write_atomically(
                self.folder / "state.safetensors", save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
            )

    def log(self, lines: dict[str, dict[str, float]], seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
        """Append one line to `log.jsonl` and report it."""
        if _rank() == 0:
            line = {"step": self.step, "seconds": round(seconds, 1), "sites": lines}
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            report(line)


def _order(rows: int, config: TrainConfig, round_index: int) -> Tensor:
    """The order in which a round's vectors are used: `passes` shuffles, one after the other."""
    seed = (config.seed * 1_000_003 + round_index) * 1009 + _rank()
    generator = torch.Generator().manual_seed(seed)
    shuffles = [torch.randperm(rows, generator=generator) for _ in range(math.ceil(config.passes))]
    return torch.cat(shuffles)[: int(rows * config.passes)]


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _average(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over the processes."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(dist.get_world_size())


def _largest(tensor: Tensor) -> None:
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)


def _same_everywhere(tensor: Tensor) -> Tensor:
    """The mean over the processes."""
    _average([tensor])
    return tensor


@contextmanager
def _group_errors() -> Iterator[None]:
    """Turn the error of a process group that lost a process into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or isinstance(error, EffaceError):
            raise
        raise EffaceError(
            f"another process of the group was lost ({str(error).splitlines()[0]}): start the run again, it resumes."
        ) from error
