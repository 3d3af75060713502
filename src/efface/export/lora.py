"""LoRA files: the edit of each matrix as up · down, at one rank and with an alpha that leaves it unscaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from efface.erasures import Erasure
from efface.errors import EffaceError
from efface.export.check import Check, require_all
from efface.export.config import ExportConfig
from efface.export.lowrank import Product, product, product_of
from efface.export.names import kohya_name, split
from efface.export.targets import Target, provenance_note, targets_of
from efface.io.atomic import write_atomically
from efface.models.model import Model
from efface.models.precision import on_cpu

ADAPTER = "efface_check"


def write(
    erasure: Erasure, pipeline: Any, path: Path, config: ExportConfig, check: Check, source: Path | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Write a LoRA, load it into the pipeline as anyone would, and draw."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise EffaceError(f"{type(pipeline).__name__} of diffusers loads no LoRAs: export to `diffusers` instead.")
    model = Model(pipeline)
    products = {target.name: _product(erasure, target, config.scale) for target in targets_of(erasure, model)}
    products = {name: product for name, product in products.items() if product.rank_for(0.0)}
    if not products:
        raise EffaceError("the erasure changes nothing at this scale: there is nothing to export.")
    rank = config.rank or max(product.rank_for(config.error) for product in products.values())
    factors = {name: product.cut(rank) for name, product in products.items()}
    tensors = lora_tensors(factors, model, config.keys)
    write_atomically(path, save(tensors, provenance_note(erasure, config.scale)))
    error = max(map(truncation_error, factors.values()))
    notes = {"keys": config.keys, "rank": rank, "layers": len(factors), "error": error}
    return _read_back(pipeline, path, list(factors), check), notes


def _product(erasure: Erasure, target: Target, scale: float) -> Product:
    """The edit of one weight; raises EffaceError where it is no matrix."""
    if target.weight.ndim != 2 or not target.name.endswith(".weight"):
        raise EffaceError(
            f"the erasure edits {target.name} of shape {tuple(target.weight.shape)}, which is no linear layer's matrix: "
            "a LoRA cannot hold it; export to `diff` or `diffusers` instead."
        )
    thin = erasure.factors(target.name, target.weight, scale)
    if thin is not None:
        return product(*thin)
    weight = on_cpu(target.weight)
    return product_of(erasure.fold(target.name, weight, scale) - weight)


def truncation_error(product: Product) -> float:
    """Error of a product of lower rank against all of ΔW, relative to its norm."""
    rank = product.up.shape[1]
    return float(product.values[rank:].norm() / product.values.norm())


def lora_tensors(products: dict[str, Product], model: Model, keys: str) -> dict[str, Tensor]:
    """The tensors of a LoRA file, by the names of its readers."""
    tensors: dict[str, Tensor] = {}
    components = model.components()
    for name, (up, down, _) in products.items():
        component, path, _ = split(name, components)
        up, down = (part.float().contiguous() for part in (up, down))
        if keys == "diffusers":
            # Without an alpha peft takes the rank for it, so that nothing is scaled.
            tensors |= {f"{component}.{path}.lora_A.weight": down, f"{component}.{path}.lora_B.weight": up}
            continue
        base = kohya_name(component, path, model.family.name, components[component].config)
        tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
        tensors[f"{base}.alpha"] = up.new_tensor(float(up.shape[1]))
    return tensors


def _read_back(pipeline: Any, path: Path, names: list[str], check: Check) -> np.ndarray:
    """Pictures with the file loaded as a LoRA; the pipeline is left without it."""
    try:
        # A file with a name that diffusers does not know passes through it silently; the layers that took it are counted.
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=ADAPTER)
        require_all([name.removesuffix(".weight") for name in names], adapted(pipeline), "the LoRA")
        return check.draw(pipeline)
    except (ValueError, KeyError, RuntimeError) as error:
        raise EffaceError(f"diffusers cannot load the LoRA ({str(error).splitlines()[0][:200]}).") from error
    finally:
        pipeline.unload_lora_weights()


def adapted(pipeline: Any) -> list[str]:
    """Component and path of every layer that holds the adapter being checked."""
    return [
        f"{component}.{path}"
        for component, module in Model(pipeline).components().items()
        for path, layer in module.named_modules()
        if ADAPTER in getattr(layer, "lora_A", {})
    ]
