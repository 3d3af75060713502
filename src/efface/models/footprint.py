"""Footprint of an erasure: what it touches of a model, by which the model that it was made for is known (file format 2).

It covers the tensors that the erasure edits, or behind whose text it stands, and the text encoders whose states it was computed
from. What else a pipeline has, and what it lacks, makes it no other model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from efface.models.likeness import Difference, Sketch, values_difference
from efface.models.originals import originals_of
from efface.models.spelling import one_name
from efface.models.tensors import ModelTensor, signs, tensors_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from efface.models.model import Model

NUMBERS = 4
"""Numbers of the sketch of a tensor: each is a signed sum over every fourth of its sampled values."""
ENCODER = 16
"""Numbers of the sketch of a text encoder; every tensor falls into one by its name."""


@dataclass(frozen=True)
class Touched:
    """A tensor, or a whole text encoder, as a footprint holds it."""

    sketch: Sketch
    shape: tuple[int, ...] = ()
    """Sizes of a tensor; nothing of an encoder."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        data: dict[str, Any] = {"shape": list(self.shape)} if self.shape else {}
        data["sketch"] = list(self.sketch.numbers)
        return data | ({"quantised": True} if self.sketch.coarse else {})

    @classmethod
    def from_json(cls, data: Any, numbers: int) -> Touched:
        """What `to_json` wrote, of so many numbers or none; TypeError, KeyError or ValueError for anything else."""
        shape, sketch, coarse = data.get("shape", []), data["sketch"], data.get("quantised", False)
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise TypeError("a shape is no list of sizes")
        if not isinstance(sketch, list) or not all(type(n) in (int, float) and isfinite(n) for n in sketch):
            raise TypeError("a sketch is no list of numbers")
        if len(sketch) not in (0, numbers) or type(coarse) is not bool:
            raise ValueError(f"a sketch has {len(sketch)} numbers where {numbers} were expected")
        return cls(Sketch(tuple(map(float, sketch)), coarse), tuple(shape))


@dataclass(frozen=True)
class Footprint:
    """Names, shapes and a coarse sketch of the tensors that an erasure touches."""

    family: str
    """Family of the pipeline."""
    width: int
    """Width of its text states."""
    tensors: Mapping[str, Touched]
    """Full name, without the wrapper that some versions of transformers put around text encoders -> the tensor."""
    encoders: Mapping[str, Touched]
    """Component -> the text encoder; none where the erasure reads no text."""

    @property
    def key(self) -> tuple[Any, ...]:
        """All of it, as something that can be looked up."""
        return self.family, self.width, tuple(self.tensors.items()), tuple(self.encoders.items())

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        parts = {"tensors": self.tensors, "encoders": self.encoders}
        named = {part: {name: touched.to_json() for name, touched in held.items()} for part, held in parts.items()}
        return {"family": self.family, "width": self.width} | named

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Footprint:
        """The footprint that `to_json` wrote; KeyError, TypeError, AttributeError or ValueError for anything else."""
        family, width = data["family"], data["width"]
        if not isinstance(family, str) or type(width) is not int or width < 1:
            raise TypeError("the footprint's family or width is not what it should be")
        return cls(
            family=family,
            width=width,
            tensors={name: Touched.from_json(entry, NUMBERS) for name, entry in data["tensors"].items()},
            encoders={name: Touched.from_json(entry, ENCODER) for name, entry in data["encoders"].items()},
        )


def footprint(model: Model, touched: Sequence[str] | None = None) -> Footprint:
    """What an erasure touches of a model, unedited.

    Args:
        model: whatever is attached to it.
        touched: full names of tensors, or of modules all of whose tensors count; None for what an edit of text touches: the
            denoiser's projections of text and of pooled text, and the text encoders.
    """
    projections = model.text_projections()
    encoders: Iterable[str] = ()
    if touched is None:
        denoiser = model.networks()[0].name
        reading = (*projections, *model.family.pooled_projections())
        touched = [f"{p.name}.weight" for p in reading if p.name.startswith(f"{denoiser}.")]
        encoders = model.family.text_encoders()
    return Footprint(
        family=model.family.name,
        width=projections[0].width,
        tensors=tensors_at(model, touched),
        encoders=_encoders_of(model, encoders),
    )


def difference_from(known: Footprint, model: Model) -> Difference:
    """In what a model differs from the one that an erasure was made for; networks that it lacks are not missed."""
    if known.family != model.family.name:
        return Difference(f"a {model.family.name} model where a {known.family} model was expected", structural=True)
    own = tensors_at(model, list(known.tensors))
    networks = tuple(f"{component}." for component in model.components())
    for name, touched in known.tensors.items():
        if name in own and own[name].shape != touched.shape:
            if known.encoders and touched.shape[1:] == (known.width,) != own[name].shape[1:]:
                text = f"text states of width {own[name].shape[-1]} where {known.width} was expected"
                return Difference(text, structural=True)
            found, expected = (" x ".join(map(str, shape)) for shape in (own[name].shape, touched.shape))
            return Difference(f"layers of other names or shapes ({name} is {found}, not {expected})", structural=True)
        if name not in own and name.startswith(networks):
            return Difference(f"layers of other names or shapes (no {name})", structural=True)
    encoders = _encoders_of(model, known.encoders)
    pairs = [(touched.sketch, own[name].sketch) for name, touched in known.tensors.items() if name in own]
    pairs += [(held.sketch, encoders[name].sketch) for name, held in known.encoders.items() if name in encoders]
    return values_difference([before for before, _ in pairs], [after for _, after in pairs])


def touched_in(components: Mapping[str, nn.Module]) -> dict[str, Touched]:
    """Full name -> tensor, of everything in some networks that nothing has edited."""
    return {one_name(tensor.name): Touched(_sketch(tensor, {}), tensor.shape) for tensor in tensors_of(components)}


def sketch_of_network(name: str, network: nn.Module) -> Sketch:
    """The sketch of a whole network that nothing has edited."""
    return _sketch_of_encoder(list(tensors_of({name: network})), {})


def tensors_at(model: Model, names: Sequence[str]) -> dict[str, Touched]:
    """Full name -> tensor, of some tensors and of all tensors in some modules; those that the model lacks are left out."""
    wanted = {one_name(name) for name in names}
    originals = originals_of(model)
    return {
        one_name(tensor.name): Touched(_sketch(tensor, originals), tensor.shape)
        for tensor in tensors_of(model.components())
        if _covers(wanted, one_name(tensor.name))
    }


def _encoders_of(model: Model, names: Iterable[str]) -> dict[str, Touched]:
    """Component -> text encoder, of those that the model has."""
    encoders, originals = model.family.text_encoders(), originals_of(model)
    return {
        name: Touched(_sketch_of_encoder(list(tensors_of({name: encoders[name]})), originals))
        for name in names
        if name in encoders
    }


def _covers(wanted: set[str], name: str) -> bool:
    """Whether a tensor, or a module that it is in, is among the wanted."""
    while name not in wanted and "." in name:
        name = name.rpartition(".")[0]
    return name in wanted


def _sketch_of_encoder(tensors: list[ModelTensor], originals: Mapping[str, Tensor]) -> Sketch:
    """Sums over the tensors of a text encoder; tables of embeddings, which grow with a vocabulary, are left out."""
    sums, counts, coarse = [0.0] * ENCODER, [0] * ENCODER, False
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        if tensor.is_table:
            continue
        sketch = _sketch(tensor, originals)
        if not sketch.numbers:
            return Sketch(())
        number = hashlib.sha256(one_name(tensor.name).encode()).digest()[0] % ENCODER
        sums[number] += sum(sketch.numbers) / NUMBERS**0.5
        counts[number] += 1
        coarse = coarse or sketch.coarse
    return Sketch(tuple(round(s / max(1, n) ** 0.5, 4) for s, n in zip(sums, counts, strict=True)), coarse)


def _sketch(tensor: ModelTensor, originals: Mapping[str, Tensor]) -> Sketch:
    """Sums of a tensor's sampled values with fixed random signs, in units of their own spread."""
    sample = tensor.sample(originals)
    if sample is None:
        return Sketch(())
    wide = sample.values.double().cpu()
    spread = max(float(wide.square().mean().sqrt()), 1e-12) if len(wide) else 1.0
    signed = wide * signs()[: len(wide)]
    parts = [signed[i::NUMBERS] for i in range(NUMBERS)]
    return Sketch(tuple(round(float(p.sum()) / max(1, len(p)) ** 0.5 / spread, 4) for p in parts), sample.coarse)
