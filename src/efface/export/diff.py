"""A patch of full differences, `NAME.diff`, which ComfyUI and A1111 read beside LoRAs; for edits that are no thin product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from efface.export.check import require_all
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.names import kohya_name, split
from efface.export.written import Reading, Written
from efface.io.atomic import write_atomically
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.precision import on_cpu

ENDINGS = {"weight": ".diff", "bias": ".diff_b"}
"""Parameter -> ending of its key."""


def write(edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None) -> Written:
    """Write the differences."""
    names = {key_of(name, edit.model): name for name in edit.weights}
    tensors = {key: edit.change(name).float().contiguous() for key, name in names.items()}
    write_atomically(path, save(tensors, edit.metadata()))
    return Written(names=list(edit.weights), notes={"tensors": len(names)}, readings=[_read_back(edit, path, names)])


def key_of(name: str, model: Model) -> str:
    """The key of a weight's difference."""
    component, path, parameter = split(name, model.components())
    base = kohya_name(component, path, model.family.name, model.components()[component].config)
    return f"{base}{ENDINGS[parameter]}"


@contextmanager
def _read_back(edit: Edit, path: Path, names: dict[str, str]) -> Iterator[Reading]:
    """The weights with the differences added."""
    read = load_file(path)
    require_all(list(names), list(read), "the patch")
    edited = {names[key]: on_cpu(edit.weights[names[key]]) + change.double() for key, change in read.items()}
    yield Reading(edited.items(), lambda: replaced(edit.model, edited))


@contextmanager
def replaced(model: Model, weights: dict[str, Tensor]) -> Iterator[Any]:
    """The pipeline with some of its parameters replaced, by full name, for a moment."""
    parameters = parameters_of(model)
    before = {name: parameters[name].detach().clone() for name in weights}
    with torch.no_grad():
        try:
            for name, weight in weights.items():
                parameters[name].copy_(weight)
            yield model.pipeline
        finally:
            for name, weight in before.items():
                parameters[name].copy_(weight)
