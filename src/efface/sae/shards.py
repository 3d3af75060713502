"""Activations on disk: safetensors shards in a folder named by the hash of everything that determines them.

A shard holds one batch of pictures and is written whole or not at all, so a harvest that was killed resumes without
duplicates or holes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from efface.errors import EffaceError
from efface.io.atomic import write_atomically
from efface.models.fingerprint import fingerprint
from efface.models.model import Model
from efface.sae.autoencoder import Reads
from efface.sae.harvest import HarvestConfig, HarvestCost, harvest_cost, require_space, shapes_of, sites_of
from efface.sae.stream import Activations


def plan(model: Model, prompts: Sequence[str], config: HarvestConfig) -> dict[str, Any]:
    """Everything that determines a harvest, for its manifest."""
    return {
        "config": config.to_json(),
        "sites": [site.name for site in sites_of(model, config.sites)],
        "prompts": list(prompts),
        "scheduler": type(model.pipeline.scheduler).__name__,
        "base": fingerprint(model).to_json(),
    }


def folder_of(root: Path, manifest: dict[str, Any]) -> Path:
    """The folder of a harvest under `root`."""
    return root / hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]


def expected_cost(model: Model, prompts: Sequence[str], config: HarvestConfig) -> HarvestCost:
    """Size and duration of a harvest, extrapolated from one step."""
    return harvest_cost(model, config, len(prompts))


def harvest(model: Model, prompts: Sequence[str], config: HarvestConfig, root: Path) -> Iterator[Path]:
    """Write shards of half-precision activations (steps batch tokens width) one by one, skipping those already there.

    Args:
        model: draws picture i of prompt i from seed + i.
        prompts: prompt of each picture.
        config: how pictures are drawn and read.
        root: folder in which the harvest's folder is created.

    Raises:
        EffaceError: the disk is too small, or a site gave values that are not finite.
    """
    manifest = plan(model, prompts, config)
    folder = folder_of(root, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(prompts), config.batch)
    missing = [i for i in range(len(starts)) if not _shard(folder, i).exists()]
    if missing:
        whole = expected_cost(model, prompts, config).bytes
        require_space(folder, whole * len(missing) // len(starts))
    write_atomically(folder / "manifest.json", json.dumps(manifest | {"shards": len(starts)}, indent=1).encode())
    shapes = shapes_of(model, config) if missing else {}
    for index in missing:
        numbers = range(starts[index], min(starts[index] + config.batch, len(prompts)))
        activations = Activations(model, config, len(numbers), shapes)
        timesteps = activations.draw([prompts[n] for n in numbers], [config.seed + n for n in numbers])
        tensors = {name: tensor.flatten(1, 2) for name, tensor in activations.tensors.items()}
        tensors["levels"] = torch.tensor(timesteps)
        write_atomically(_shard(folder, index), save(tensors))
        yield _shard(folder, index)


class Shards:
    """A harvest on disk as a source of training rounds: every round holds the vectors of a few shards.

    Args:
        folder: folder of the harvest, with its manifest.
        size: shards per round.
        rank: number of this process; each reads shards of its own.
        world: processes that share the work.

    Raises:
        EffaceError: the harvest is missing or not finished.
    """

    def __init__(self, folder: Path, *, size: int = 8, rank: int = 0, world: int = 1):
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise EffaceError(
                f"{folder} holds no harvest; expected a manifest.json of `efface sae harvest`."
            ) from error
        self.folder = folder
        self.size = size
        self.rank = rank
        self.world = world
        self.names: list[str] = manifest["sites"]
        self.reads: Reads = "difference" if manifest["config"]["difference"] else "output"
        self.count: int = manifest["shards"]
        missing = [i for i in range(self.count) if not _shard(folder, i).exists()]
        if missing:
            raise EffaceError(
                f"{folder} lacks {len(missing)} of {self.count} shards: run the harvest again, it goes on where it stopped."
            )

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width) in half precision; every pass over the shards is shuffled anew."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.names}
        first = (index * self.world + self.rank) * self.size
        for number in range(first, first + self.size):
            epoch, position = divmod(number, self.count)
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(epoch))
            for name, states in self._read(int(order[position])).items():
                parts[name].append(states.flatten(0, 2))
        return {name: torch.cat(batches) for name, batches in parts.items()}

    def _read(self, index: int) -> dict[str, Tensor]:
        path = _shard(self.folder, index)
        try:
            tensors = load_file(path)
            return {name: tensors[name] for name in self.names}
        except (SafetensorError, OSError, KeyError) as error:
            raise EffaceError(
                f"{path} is damaged: delete it and run the harvest again, which makes it anew."
            ) from error


def _shard(folder: Path, index: int) -> Path:
    """Path of a shard."""
    return folder / f"shard-{index:05}.safetensors"
