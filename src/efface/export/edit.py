"""Edit: what one or several erasures, one after the other, do to the weights of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures import Erasure
from efface.erasures.conditions import mapped_projections
from efface.errors import EffaceError
from efface.export.names import split
from efface.families.storage import disk_group_at, values_of
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.precision import on_cpu
from efface.models.spelling import spelt_as


class Edit:
    """Erasures in the order in which they are attached: for text maps A and B, W becomes W M_A M_B.

    Args:
        erasures: made for this model.
        model: the model; its weights are left as they are.
        scale: strength of each erasure.

    Raises:
        EffaceError: no weight does what an erasure does, or the model has no weight of that name.
    """

    def __init__(self, erasures: Sequence[Erasure], model: Model, scale: float = 1.0):
        self.erasures = tuple(erasures)
        self.model = model
        self.scale = scale
        self.weights: dict[str, Tensor] = {}
        """Full name of every weight that is edited -> the weight as the model has it."""
        self._by: dict[str, list[Erasure]] = {}
        for erasure in self.erasures:
            for name, weight in _targets(erasure, model):
                self.weights[name] = weight
                self._by.setdefault(name, []).append(erasure)

    def fold(self, name: str, weight: Tensor) -> Tensor:
        """A weight after the edits, in its own precision."""
        for erasure in self._by[name]:
            weight = erasure.fold(name, weight, self.scale)
        return weight

    def change(self, name: str) -> Tensor:
        """ΔW of a weight, in float64 on the CPU."""
        weight = on_cpu(self.weights[name])
        return self.fold(name, weight) - weight

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """(out n) and (in n), in float64 on the CPU, whose product left · rightᵀ is the ΔW of a matrix.

        Layers that read the same text have the same right factor.
        """
        weight = on_cpu(self.weights[name])
        left, right = [], []
        for erasure in self._by[name]:
            thin = erasure.factors(name, weight, self.scale)
            if thin is None:
                return _square(self.change(name))
            left.append(thin[0])
            right.append(thin[1])
            weight = weight + thin[0] @ thin[1].T
        return torch.cat(left, dim=1), torch.cat(right, dim=1)

    @contextmanager
    def attached(self, pipeline: Any, *, fold: bool = False, force: bool = False) -> Iterator[None]:
        """Every erasure on a pipeline for a moment; folded where one of them lives in weights, since those come first."""
        fold = fold or any(erasure.acts_on == "weights" for erasure in self.erasures)
        with ExitStack() as stack:
            for erasure in self.erasures:
                stack.enter_context(erasure.attached(pipeline, scale=self.scale, fold=fold, force=force))
            yield

    @contextmanager
    def in_memory(self) -> Iterator[None]:
        """While active, the edited weights that were left in their files are in memory, where loaders of adapters need them."""
        left: list[tuple[nn.Module, str, nn.Parameter]] = []
        components = self.model.components()
        for name, weight in self.weights.items():
            component, path, parameter = split(name, components)
            module = components[component].get_submodule(path)
            own = module.get_parameter(parameter)
            if own.is_meta:
                left.append((module, parameter, own))
                module._parameters[parameter] = nn.Parameter(weight, requires_grad=own.requires_grad)
        try:
            yield
        finally:
            for module, parameter, own in left:
                module._parameters[parameter] = own

    def note(self) -> dict[str, Any]:
        """What was erased and how, as files hold it."""
        notes = [
            erasure.provenance.to_json() | {"kind": erasure.kind, "scale": self.scale} for erasure in self.erasures
        ]
        for note in notes:
            note["base"] = {
                part: value for part, value in note["base"].items() if part in ("family", "width", "structure")
            }
        if len(notes) == 1:
            return notes[0]
        return {"concepts": [concept for note in notes for concept in note["concepts"]], "erasures": notes}

    def metadata(self) -> dict[str, str]:
        """The same as metadata of a safetensors file."""
        return {"format": "pt", "efface": json.dumps(self.note())}


def _targets(erasure: Erasure, model: Model) -> Iterator[tuple[str, Tensor]]:
    """Name and value of the weights that an erasure changes, in order of name."""
    named = erasure.targets()
    if named is None:
        for projection in mapped_projections(model, erasure):
            name = f"{projection.name}.weight"
            module = getattr(projection.module, "base_layer", projection.module)
            yield name, values_of(module, "weight", projection.group, called=name)
        return
    components = model.components()
    parameters = parameters_of(model)
    for name in spelt_as(named, parameters).values():
        if name not in parameters:
            raise EffaceError(
                f"the model has no weight called {name}, which the erasure edits: was it made for another model?"
            )
        component, path, parameter = split(name, components)
        group = disk_group_at(components[component], path)
        yield name, values_of(components[component].get_submodule(path), parameter, group, called=name)


def _square(change: Tensor) -> tuple[Tensor, Tensor]:
    """A dense ΔW (out in) as a product whose inner side is the shorter of its two."""
    out, wide = change.shape
    if wide <= out:
        return change, torch.eye(wide, dtype=change.dtype)
    return torch.eye(out, dtype=change.dtype), change.T
