"""Fingerprint of a model: tells another model apart, but not the same one in another dtype or on another device."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from efface.families.layers import read_parameter
from efface.models.model import Model

BUCKETS = 64
"""Numbers of a sketch; every tensor falls into one bucket by its name."""
SAMPLE = 4096
"""Weights of each tensor that enter the sketch, evenly spaced."""
ROUNDING = 8e-3
"""Largest difference of a bucket that rounding explains: bf16 moves one by about 1.6e-3, this is five times that."""


@dataclass(frozen=True)
class Fingerprint:
    """Names, shapes and a coarse sketch of the weights of denoiser and text encoders."""

    family: str
    """Family of the pipeline."""
    width: int
    """Width of its text states."""
    structure: str
    """sha256 over every component's tensor names and shapes."""
    sketch: tuple[float, ...]
    """For each bucket of tensors a signed sum of sampled weights in units of their own spread."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint that `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        family, width, structure, sketch = (data[name] for name in ("family", "width", "structure", "sketch"))
        if not isinstance(family, str) or not isinstance(structure, str) or type(width) is not int or width < 1:
            raise TypeError("the fingerprint's family, width or structure is not what it should be")
        if not isinstance(sketch, list) or not all(type(n) in (int, float) and isfinite(n) for n in sketch):
            raise ValueError("the fingerprint's sketch is no list of numbers")
        return cls(family=family, width=width, structure=structure, sketch=tuple(sketch))

    def distance(self, other: Fingerprint) -> float:
        """Largest difference over the buckets; rounding to half precision stays below ROUNDING."""
        return max(abs(a - b) for a, b in zip(self.sketch, other.sketch, strict=True))

    def difference(self, other: Fingerprint) -> str:
        """What differs from `other`, in words; empty when they are the same model."""
        if self.family != other.family:
            return f"a {other.family} model where a {self.family} model was expected"
        if self.width != other.width:
            return f"text states of width {other.width} where {self.width} was expected"
        if self.structure != other.structure:
            return "layers of other names or shapes"
        if len(self.sketch) != len(other.sketch):
            return "a fingerprint of another length (made by another efface)"
        if self.distance(other) > ROUNDING:
            return f"other weights (distance {self.distance(other):.3g}, rounding explains {ROUNDING:g})"
        return ""


def fingerprint_of(
    family: str, width: int, components: Mapping[str, nn.Module], originals: Mapping[str, Tensor]
) -> Fingerprint:
    """Fingerprint of unedited weights.

    Args:
        family: name of the pipeline's family.
        width: of its text states.
        components: networks by component name.
        originals: full tensor name -> weights before they were edited, where they are.
    """
    sums = [0.0] * BUCKETS
    counts = [0] * BUCKETS
    weights = _sorted_weights(components)
    for name, tensor in weights:
        weight = originals.get(name, tensor)
        bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % BUCKETS
        sums[bucket] += _signed_sum(weight)
        counts[bucket] += 1
    sketch = tuple(round(s / max(1, n) ** 0.5, 5) for s, n in zip(sums, counts, strict=True))
    return Fingerprint(family=family, width=width, structure=_structure(weights), sketch=sketch)


def _weights(components: Mapping[str, nn.Module]) -> Iterable[tuple[str, Tensor]]:
    """Full name and tensor of every parameter of the model itself."""
    for component, module in components.items():
        for path, part in module.named_modules():
            # Adapters and fused copies of projections come and go without changing the model.
            if not _ADAPTER.search(path):
                prefix = f"{component}.{path.replace('.base_layer', '')}".rstrip(".")
                yield from (
                    (f"{prefix}.{name}", read_parameter(part, name))
                    for name in part._parameters
                    if part._parameters[name] is not None
                )


_ADAPTER = re.compile(r"lora_|\.to_q?kv$|\.processor(\.|$)|^encoder_hid_proj|^image_proj")
"""Paths of LoRAs, fused projections and IP-Adapters."""


def _signed_sum(weight: Tensor) -> float:
    if not weight.is_floating_point():
        return 0.0
    flat = weight.flatten()
    sample = flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE].double().cpu()
    signs = torch.randint(2, (SAMPLE,), generator=torch.Generator().manual_seed(7))[: len(sample)] * 2 - 1
    spread = sample.square().mean().sqrt()
    return float((signs * sample).sum() / len(sample) ** 0.5 / spread.clamp(min=1e-12))


_ORIGINALS: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def originals_of(model: Model) -> dict[str, Tensor]:
    """Full tensor name -> weights of a model before any edit, on the CPU, of those that are edited now."""
    return _ORIGINALS.setdefault(model.networks()[0].module, {})


def fingerprint(model: Model) -> Fingerprint:
    """Fingerprint of a model's unedited weights, whatever is attached to it."""
    width = model.text_projections()[0].module.weight.shape[1]
    return fingerprint_of(model.family.name, width, model.components(), originals_of(model))


def structure_of(components: Mapping[str, nn.Module]) -> str:
    """sha256 over the names and shapes of every tensor, as a fingerprint holds it; quick, since no weight is read."""
    return _structure(_sorted_weights(components))


def _sorted_weights(components: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
    return sorted(_weights(components), key=lambda named: named[0])


def _structure(weights: Iterable[tuple[str, Tensor]]) -> str:
    hashed = hashlib.sha256()
    for name, tensor in weights:
        hashed.update(f"{name}{tuple(tensor.shape)}".encode())
    return hashed.hexdigest()
