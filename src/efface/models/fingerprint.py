"""Fingerprint of a model: tells another model apart, but not the same one in another dtype or on another device."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.models.originals import originals_of
from efface.models.spelling import spell

if TYPE_CHECKING:
    from torch import Tensor, nn

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
    family: str, width: int, components: Mapping[str, nn.Module], originals: Mapping[str, Tensor], *, old: bool = False
) -> Fingerprint:
    """Fingerprint of unedited weights.

    Args:
        family: name of the pipeline's family.
        width: of its text states.
        components: networks by component name.
        originals: full tensor name -> weights before they were edited, where they are.
        old: with the names that transformers before 5.6 gives a text encoder's tensors.
    """
    sums = [0.0] * BUCKETS
    counts = [0] * BUCKETS
    weights = _sorted_weights(components, old)
    for weight in weights:
        bucket = int.from_bytes(hashlib.sha256(weight.name.encode()).digest()[:4]) % BUCKETS
        sums[bucket] += _signed_sum(weight.sample(originals.get(weight.own_name)))
        counts[bucket] += 1
    sketch = tuple(round(s / max(1, n) ** 0.5, 5) for s, n in zip(sums, counts, strict=True))
    return Fingerprint(family=family, width=width, structure=_structure(weights), sketch=sketch)


class _Weight(NamedTuple):
    """A tensor of a model, which may be in memory, offloaded, or still in its file."""

    name: str
    """Its full name, spelt in one way whatever the version of transformers."""
    own_name: str
    """Its full name as the model itself spells it."""
    part: nn.Module
    """The module that has it."""
    parameter: str
    """Its name there."""
    shape: tuple[int, ...]

    def sample(self, original: Tensor | None) -> Tensor:
        """Its evenly spaced values (at most SAMPLE); `original` takes its place where it is edited now."""
        from efface.families.layers import sample_parameter

        step = max(1, prod(self.shape) // SAMPLE)
        if original is not None:
            return original.flatten()[::step][:SAMPLE]
        return sample_parameter(self.part, self.parameter, step, SAMPLE)


def _weights(components: Mapping[str, nn.Module], old: bool) -> Iterator[_Weight]:
    """Every parameter of the model itself."""
    for component, module in components.items():
        found = {}
        for path, part in module.named_modules():
            # Adapters and fused copies of projections come and go without changing the model.
            if not _ADAPTER.search(path):
                prefix = path.replace(".base_layer", "")
                found |= {f"{prefix}.{n}".lstrip("."): (part, n) for n, p in part._parameters.items() if p is not None}
        for own, name in zip(found, spell(list(found), old=old), strict=True):
            part, parameter = found[own]
            shape = tuple(getattr(part, parameter).shape)
            yield _Weight(f"{component}.{name}", f"{component}.{own}", part, parameter, shape)


_ADAPTER = re.compile(r"lora_|\.to_q?kv$|\.processor(\.|$)|^encoder_hid_proj|^image_proj")
"""Paths of LoRAs, fused projections and IP-Adapters."""


def _signed_sum(sample: Tensor) -> float:
    """The sum of a tensor's evenly spaced values with fixed random signs, in units of their spread."""
    import torch

    if not sample.is_floating_point():
        return 0.0
    sample = sample.double().cpu()
    signs = torch.randint(2, (SAMPLE,), generator=torch.Generator().manual_seed(7))[: len(sample)] * 2 - 1
    spread = sample.square().mean().sqrt()
    return float((signs * sample).sum() / len(sample) ** 0.5 / spread.clamp(min=1e-12))


def fingerprint(model: Model, *, old: bool = False) -> Fingerprint:
    """Fingerprint of a model's unedited weights, whatever is attached to it; `old` as of `fingerprint_of`."""
    width = model.text_projections()[0].module.weight.shape[1]
    return fingerprint_of(model.family.name, width, model.components(), originals_of(model), old=old)


def fingerprint_like(model: Model, known: Fingerprint) -> Fingerprint:
    """Fingerprint of a model's unedited weights, with tensors named as in a known one, whichever transformers made that."""
    if structure_of(model.components(), old=True) == known.structure:
        return fingerprint(model, old=True)
    return fingerprint(model)


def structure_of(components: Mapping[str, nn.Module], *, old: bool = False) -> str:
    """sha256 over the names and shapes of every tensor, as a fingerprint holds it; quick, since no weight is read."""
    return _structure(_sorted_weights(components, old))


def _sorted_weights(components: Mapping[str, nn.Module], old: bool) -> list[_Weight]:
    return sorted(_weights(components, old), key=lambda weight: weight.name)


def _structure(weights: list[_Weight]) -> str:
    hashed = hashlib.sha256()
    for weight in weights:
        hashed.update(f"{weight.name}{weight.shape}".encode())
    return hashed.hexdigest()
