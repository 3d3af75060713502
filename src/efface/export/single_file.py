"""A single-file checkpoint of SD 1.x, 2.x or SDXL: the user's own one, with the edited matrices in their places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.export.check import require_all
from efface.export.config import ExportConfig
from efface.export.diff import replaced
from efface.export.edit import Edit
from efface.export.names import CHECKPOINT, original_unet, split
from efface.export.written import Reading, Written
from efface.models.model import Model

AVERAGED = "model_ema."
"""Prefix of a second copy of the UNet, which no tool draws with and which would keep the concept."""


def write(edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None) -> Written:
    """Copy the checkpoint with edited tensors."""
    if source is None or not source.is_file() or source.suffix != ".safetensors":
        raise UsageError(
            "a single-file export needs the model as a .safetensors checkpoint: give its path as the model."
        )
    keys = {name: checkpoint_key(name, edit.model) for name in edit.weights}
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            held = list(file.keys())
            missing = sorted(set(keys.values()) - set(held))
            if missing:
                raise EffaceError(
                    f"{source} has no tensor {missing[0]}, which the erasure edits: is it a UNet checkpoint of "
                    f"{edit.model.family.name}?"
                )
            tensors = {key: file.get_tensor(key) for key in held if not key.startswith(AVERAGED)}
    except (SafetensorError, OSError) as error:
        raise EffaceError(f"{source} is missing or damaged ({error}): fetch another copy.") from error
    for name, key in keys.items():
        tensors[key] = edit.fold(name, tensors[key]).contiguous()
    save_file(tensors, path, metadata | edit.metadata())
    notes = {"layers": len(keys), "averaged copies left out": sum(key.startswith(AVERAGED) for key in held)}
    return Written(names=list(keys), notes=notes, readings=[_read_back(edit.model, path)])


def checkpoint_key(name: str, model: Model) -> str:
    """The key of a UNet's tensor in a single-file checkpoint; raises EffaceError for other networks."""
    component, path, parameter = split(name, model.components())
    if component != "unet":
        raise EffaceError(
            f"the erasure edits {name}, and a single-file export reaches the UNet of SD 1.x, 2.x and SDXL only: "
            "export to `diffusers` instead."
        )
    return f"{CHECKPOINT}{original_unet(path, model.components()['unet'].config)}.{parameter}"


@contextmanager
def _read_back(model: Model, path: Path) -> Iterator[Reading]:
    """All of the UNet's tensors from the file, found there by diffusers' own reader."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet: Any = model.components()["unet"]
    with safe_open(path, framework="pt") as file:
        held: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys() if key.startswith(CHECKPOINT)}  # noqa: SIM118
    read = {f"unet.{key}": tensor for key, tensor in convert_ldm_unet_checkpoint(dict(held), unet.config).items()}
    require_all([f"unet.{key}" for key in unet.state_dict()], list(read), "diffusers' reader of the checkpoint")
    yield Reading(read.items(), lambda: replaced(model, read))
