"""Low-rank adapters: the edit of every matrix as up · down at one rank, and the layers that hold them once they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.lowrank import Basis, Product, basis_of, product
from efface.export.names import split
from efface.export.written import Reading
from efface.models.model import Model
from efface.models.precision import on_cpu

NAME = "efface_check"
"""Of the adapter that is read back."""


class Adapter(NamedTuple):
    """Factors of the edits of many weights.

    Servers read one rank and one alpha for a whole adapter, so that all layers have the same.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    """Full name of a weight -> up (out rank) and down (rank in), as they are stored."""
    rank: int
    """Of every layer."""

    def notes(self) -> dict[str, Any]:
        """What the user is told."""
        precision = str(next(iter(self.factors.values()))[0].dtype).removeprefix("torch.")
        return {"rank": self.rank, "precision": precision, "layers": len(self.factors)}


def adapter_of(edit: Edit, config: ExportConfig) -> Adapter:
    """The least rank that holds every layer's edit to the error asked for, in float16 unless only float32 can.

    Raises:
        EffaceError: an edited weight is no linear layer's matrix, or nothing is edited.
    """
    for name in edit.weights:
        _require_linear(edit, name)
    error = config.error_of(len(edit.erasures))
    for dtype in (torch.float16, torch.float32):
        products = _products(edit, dtype, error, config.rank)
        if not products:
            raise EffaceError("the erasure changes nothing at this scale: there is nothing to export.")
        ranks = [config.rank or product.rank_for(error) for product in products.values()]
        known = [rank for rank in ranks if rank is not None]
        if len(known) == len(ranks):
            rank = max(known)
            return Adapter({name: product.cut(rank) for name, product in products.items()}, rank)
    raise EffaceError("the erasure's edits are too large or too small for float32: check the model and the scale.")


def _products(edit: Edit, dtype: torch.dtype, error: float, rank: int | None) -> dict[str, Product]:
    """The edits that change something, as products in one precision."""
    products: dict[str, Product] = {}
    right: Tensor | None = None
    basis: Basis | None = None
    for name in edit.weights:
        left, own = edit.factors(name)
        if basis is None or right is None or not torch.equal(own, right):
            right = own
            basis = basis_of(own)
        found = product(left, basis, dtype, error=error, rank=rank)
        if found.up.shape[1]:
            products[name] = found
    return products


def _require_linear(edit: Edit, name: str) -> None:
    components = edit.model.components()
    component, path, parameter = split(name, components)
    if parameter != "weight" or not isinstance(components[component].get_submodule(path), nn.Linear):
        raise EffaceError(
            f"the erasure edits {name} of shape {tuple(edit.weights[name].shape)}, which is no linear layer's matrix: "
            "a LoRA cannot hold it; export to `diff` or `diffusers` instead."
        )


@contextmanager
def read_by_diffusers(edit: Edit, pipeline: Any, file: Path) -> Iterator[Reading]:
    """A LoRA file in the pipeline as anyone would load it; the pipeline is left without it.

    Raises:
        EffaceError: diffusers cannot load it.
    """
    with trainable_as_before(edit.model):
        try:
            try:
                with _quiet():
                    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=NAME)
            except (ValueError, LookupError, RuntimeError) as error:
                raise EffaceError(f"diffusers cannot load the LoRA ({str(error).splitlines()[0][:200]}).") from error
            yield Reading(adapted(edit, NAME), lambda: nullcontext(pipeline))
        finally:
            pipeline.unload_lora_weights()


@contextmanager
def trainable_as_before(model: Model) -> Iterator[None]:
    """Afterwards the same weights are trained as before: loaders of adapters freeze the networks that they change."""
    weights = [weight for network in model.components().values() for weight in network.parameters()]
    trained = [weight.requires_grad for weight in weights]
    try:
        yield
    finally:
        for weight, before in zip(weights, trained, strict=True):
            weight.requires_grad_(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line of the log for every network that a LoRA leaves alone: the layers that took it are counted."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def adapted(edit: Edit, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """Name and weight (float64) of every layer that holds an adapter, with what it adds.

    A key that no layer has passes through the loaders silently; here its layer is missing.
    """
    for component, module in edit.model.components().items():
        layers: Any = module.named_modules()
        for path, layer in layers:
            if adapter in getattr(layer, "lora_A", {}):
                change = on_cpu(layer.lora_B[adapter].weight) @ on_cpu(layer.lora_A[adapter].weight)
                name = f"{component}.{path}.weight"
                weight: Any = edit.weights.get(name, layer.base_layer.weight)
                yield name, on_cpu(weight) + layer.scaling[adapter] * change
