"""Fingerprint of a whole model: tells another model apart, but not the same one in another dtype or on another device.

Caches, ledgers and the metadata of models hold it; so do erasures of file format 1. Later ones hold a `footprint`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite
from typing import TYPE_CHECKING, Any

from efface.models.likeness import Difference, Sketch, cosine, values_difference
from efface.models.originals import originals_of
from efface.models.tensors import SAMPLE, ModelTensor, tensors_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from efface.models.model import Model

BUCKETS = 64
"""Numbers of a sketch; every tensor falls into one bucket by its name."""
LIKE = 0.7
"""Least cosine of two sketches that were taken over other tensors of one model: √(n / (n + m)) where n are in both and m in one
only, so that a model may lack half of what another has. Other weights in the same layers give 0.4 at most, by their norms."""


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
        return values_difference([Sketch(self.sketch)], [Sketch(other.sketch)]).text


def fingerprint(model: Model, *, old: bool = False) -> Fingerprint:
    """Fingerprint of a model's unedited weights, whatever is attached to it; `old` as of `fingerprint_of`."""
    width = model.text_projections()[0].width
    return fingerprint_of(model.family.name, width, model.components(), originals_of(model), old=old)


def fingerprint_of(
    family: str, width: int, components: Mapping[str, nn.Module], originals: Mapping[str, Tensor], *, old: bool = False
) -> Fingerprint:
    """Fingerprint of unedited weights; those that cannot be read count as zeros.

    Args:
        family: name of the pipeline's family.
        width: of its text states.
        components: networks by component name.
        originals: full tensor name -> weights before they were edited, where they are.
        old: with the names that transformers before 5.6 gives a text encoder's tensors.
    """
    tensors = _sorted(components, old)
    numbers = [number for bucket in _sketch(tensors, originals) for number in bucket.numbers or (0.0,)]
    return Fingerprint(family=family, width=width, structure=_structure(tensors), sketch=tuple(numbers))


def difference_as_made(known: Fingerprint, model: Model) -> Difference:
    """In what a model differs from the one of a fingerprint, which is compared as it was made.

    Tried are the names of either spelling, of all components and of some: the model that it was made of may have had fewer.
    Where the names and shapes are none of these, what is common to both decides by the likeness of the sketches, and the
    difference has a remark.
    """
    width = model.text_projections()[0].width
    own = Fingerprint(family=model.family.name, width=width, structure=known.structure, sketch=known.sketch)
    if text := known.difference(own):
        return Difference(text, structural=True)
    if len(known.sketch) != BUCKETS:
        return Difference("a fingerprint of another length (made by another efface)")
    before = [Sketch((number,)) for number in known.sketch]
    originals = originals_of(model)
    for chosen in _subsets(model.components(), model.networks()[0].name):
        for old in (False, True):
            tensors = _sorted(chosen, old)
            if _structure(tensors) == known.structure:
                return values_difference(before, _sketch(tensors, originals))
    after = (_sketch(_sorted(model.components(), old), originals) for old in (False, True))
    if max(cosine(before, sketch) for sketch in after) < LIKE:
        return Difference("layers of other names or shapes", structural=True)
    return Difference(
        remark="it has other parts or a vocabulary of another size, and by the weights that are common it is the same model or a "
        "fine-tune of it"
    )


def structure_of(components: Mapping[str, nn.Module]) -> str:
    """sha256 over the names and shapes of every tensor, as a fingerprint holds it; quick, since no weight is read."""
    return _structure(_sorted(components, old=False))


def _subsets(components: Mapping[str, nn.Module], denoiser: str) -> Iterator[dict[str, nn.Module]]:
    """The components, then all but some of them, the denoiser among them."""
    others = [name for name in components if name != denoiser]
    for count in range(len(others), -1, -1):
        for chosen in combinations(others, count):
            yield {name: module for name, module in components.items() if name in (denoiser, *chosen)}


def _sketch(tensors: list[ModelTensor], originals: Mapping[str, Tensor]) -> list[Sketch]:
    """The number of every bucket; none where one of its tensors could not be read."""
    sums = [0.0] * BUCKETS
    counts = [0] * BUCKETS
    coarse: set[int] = set()
    unread: set[int] = set()
    for tensor in tensors:
        bucket = int.from_bytes(hashlib.sha256(tensor.name.encode()).digest()[:4]) % BUCKETS
        counts[bucket] += 1
        sample = tensor.sample(originals)
        if sample is None:
            unread.add(bucket)
        else:
            sums[bucket] += _signed_sum(sample.values)
            coarse |= {bucket} if sample.coarse else set()
    numbers = [round(s / max(1, n) ** 0.5, 5) for s, n in zip(sums, counts, strict=True)]
    return [Sketch(() if b in unread else (number,), coarse=b in coarse) for b, number in enumerate(numbers)]


def _signed_sum(values: Tensor) -> float:
    """The sum of a tensor's evenly spaced values with fixed random signs, in units of their spread."""
    import torch

    wide = values.double().cpu()
    signs = torch.randint(2, (SAMPLE,), generator=torch.Generator().manual_seed(7))[: len(wide)] * 2 - 1
    spread = wide.square().mean().sqrt()
    return float((signs * wide).sum() / len(wide) ** 0.5 / spread.clamp(min=1e-12))


def _sorted(components: Mapping[str, nn.Module], old: bool) -> list[ModelTensor]:
    return sorted(tensors_of(components, old=old), key=lambda tensor: tensor.name)


def _structure(tensors: list[ModelTensor]) -> str:
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(f"{tensor.name}{tensor.shape}".encode())
    return hashed.hexdigest()
