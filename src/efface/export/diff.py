"""A patch of full differences, `NAME.diff`, which ComfyUI and A1111 read beside LoRAs; for edits that are no thin product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from efface.erasures import Erasure
from efface.export.check import Check, require_all
from efface.export.config import ExportConfig
from efface.export.names import kohya_name, split
from efface.export.targets import provenance_note, targets_of
from efface.io.atomic import write_atomically
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.precision import on_cpu

ENDINGS = {"weight": ".diff", "bias": ".diff_b"}
"""Parameter -> ending of its key."""


def write(
    erasure: Erasure, pipeline: Any, path: Path, config: ExportConfig, check: Check, source: Path | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Write the differences, add what was written to the weights, and draw."""
    model, tensors, names = Model(pipeline), {}, {}
    for target in targets_of(erasure, model):
        weight = on_cpu(target.weight)
        key = key_of(target.name, model)
        tensors[key] = (erasure.fold(target.name, weight, config.scale) - weight).float().contiguous()
        names[key] = target.name
    write_atomically(path, save(tensors, provenance_note(erasure, config.scale)))
    read = load_file(path)
    require_all(list(names), list(read), "the patch")
    return _patched(model, {names[key]: change for key, change in read.items()}, check), {"tensors": len(read)}


def key_of(name: str, model: Model) -> str:
    """The key of a weight's difference."""
    component, path, parameter = split(name, model.components())
    base = kohya_name(component, path, model.family.name, model.components()[component].config)
    return f"{base}{ENDINGS[parameter]}"


@torch.no_grad()
def _patched(model: Model, changes: dict[str, Tensor], check: Check) -> np.ndarray:
    """Pictures with the differences added to the weights, which are put back afterwards."""
    parameters = parameters_of(model)
    before = {name: parameters[name].detach().clone() for name in changes}
    try:
        for name, change in changes.items():
            parameters[name].copy_(before[name].double() + change.to(before[name].device).double())
        return check.draw(model.pipeline)
    finally:
        for name, weight in before.items():
            parameters[name].copy_(weight)
