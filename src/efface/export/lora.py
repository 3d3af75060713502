"""LoRA files: the edit of each matrix as up · down, at one rank and with an alpha that leaves it unscaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.export.adapter import adapter_of, read_by_diffusers
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.names import diffusers_keys, kohya_name, split
from efface.export.written import Written
from efface.io.atomic import write_atomically
from efface.models.model import Model


def write(edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None) -> Written:
    """Write a LoRA that diffusers reads, under its own names or kohya's."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise EffaceError(f"{type(pipeline).__name__} of diffusers loads no LoRAs: export to `peft` or `diffusers`.")
    if path.suffix != ".safetensors":
        raise UsageError(
            f"a LoRA's file must be called .safetensors, or nothing reads it; its name ends in {path.suffix!r}."
        )
    adapter = adapter_of(edit, config)
    write_atomically(path, save(lora_tensors(adapter.factors, edit.model, config.keys), edit.metadata()))
    return Written(
        names=list(adapter.factors),
        notes={"keys": config.keys, **adapter.notes()},
        readings=[read_by_diffusers(edit, pipeline, path)],
    )


def lora_tensors(factors: dict[str, tuple[Tensor, Tensor]], model: Model, keys: str) -> dict[str, Tensor]:
    """The tensors of a LoRA file, by the names of its readers."""
    tensors: dict[str, Tensor] = {}
    components = model.components()
    for name, (up, down) in factors.items():
        component, path, _ = split(name, components)
        if keys == "diffusers":
            # Without an alpha peft takes the rank for it, so that nothing is scaled.
            down_key, up_key = diffusers_keys(component, path)
            tensors |= {down_key: down, up_key: up}
            continue
        base = kohya_name(component, path, model.family.name, components[component].config)
        tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
        tensors[f"{base}.alpha"] = torch.tensor(float(up.shape[1]))
    return tensors
