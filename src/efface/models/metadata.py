"""What a model says of itself beside its weights: its name, usual sampling and dtype (`efface.json` of its folder).

A model is known by the file in the folder that it was loaded from, whichever that is, or by its weights: a copy of an
embedded model without the file has the fingerprint that the embedded one's file holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from efface.errors import EffaceError
from efface.families import family_of
from efface.io import embedded
from efface.io.atomic import write_atomically
from efface.models.fingerprint import Fingerprint, structure_of
from efface.models.model import Model
from efface.models.unchanged import known_fingerprint


class Metadata(NamedTuple):
    """What `efface.json` says of a model."""

    name: str
    """Name of the model, and of its profile."""
    steps: int
    """Denoising steps of its standard solver."""
    guidance: float
    dtype: str
    """Precision in which the model is loaded."""
    fingerprint: Fingerprint
    """Fingerprint of the model's weights."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metadata:
        """The metadata of an object; KeyError, TypeError or ValueError for anything else."""
        name, steps, guidance, dtype = (data[key] for key in ("name", "steps", "guidance", "dtype"))
        if not isinstance(name, str) or type(steps) is not int or steps < 1 or dtype not in DTYPES:
            raise TypeError("the model's name, steps or dtype is not what it should be")
        weights = Fingerprint.from_json(data["fingerprint"])
        return cls(name=name, steps=steps, guidance=float(guidance), dtype=dtype, fingerprint=weights)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, as the file has it."""
        return self._asdict() | {"fingerprint": self.fingerprint.to_json()}


DTYPES = ("float32", "float16", "bfloat16")
_BY_DENOISER: WeakKeyDictionary[nn.Module, Metadata | None] = WeakKeyDictionary()
"""Metadata of every denoiser that was asked about, since comparing weights takes a moment."""


def metadata_of(pipeline: Any) -> Metadata | None:
    """What is known of a pipeline's model; None where nothing is.

    Raises:
        EffaceError: the file in its folder is damaged, or the pipeline is of no known family.
    """
    denoiser = family_of(pipeline).networks()[0].module
    if denoiser not in _BY_DENOISER:
        _BY_DENOISER[denoiser] = _by_file(pipeline) or _by_weights(Model(pipeline))
    return _BY_DENOISER[denoiser]


def model_name(pipeline: Any) -> str:
    """The name of a pipeline's model: its metadata's, its Hub id, or the last part of the path that it was loaded from; no
    other part of a path, since names go into files that are shared."""
    metadata = metadata_of(pipeline)
    if metadata is not None:
        return metadata.name
    source = str(getattr(getattr(pipeline, "config", None), "_name_or_path", "") or "")
    cached = re.search(r"models--([^/\\]+)--([^/\\]+)", source)  # the Hub's cache
    if cached:
        return f"{cached[1]}/{cached[2]}"
    if source.count("/") == 1 and not Path(source).exists():
        return source
    return Path(source).name.removesuffix(".safetensors") or "unnamed"


def write_metadata(
    folder: Path, pipeline: Any, *, name: str, steps: int, guidance: float, dtype: str = "float32"
) -> Metadata:
    """Write the file of a model's folder, so that the model is known from now on."""
    weights = known_fingerprint(Model(pipeline))
    metadata = Metadata(name=name, steps=steps, guidance=guidance, dtype=dtype, fingerprint=weights)
    write_atomically(folder / embedded.METADATA, (json.dumps(metadata.to_json(), indent=1) + "\n").encode())
    return metadata


def embedded_metadata(name: str) -> Metadata:
    """What the file of an embedded model says."""
    metadata = metadata_in(embedded.folder(name))
    if metadata is None:
        raise EffaceError(f"no model called {name!r} is embedded: expected one of {', '.join(embedded.names())}.")
    return metadata


def _by_file(pipeline: Any) -> Metadata | None:
    """From the folder that the pipeline was loaded from."""
    source = getattr(getattr(pipeline, "config", None), "_name_or_path", "")
    return metadata_in(Path(source)) if source else None


def _by_weights(model: Model) -> Metadata | None:
    """The embedded model with the same weights; they are compared only where family and shapes are the same."""
    structure = ""
    for name in embedded.names():
        metadata = embedded_metadata(name)
        weights = metadata.fingerprint
        if weights.family == model.family.name:
            structure = structure or structure_of(model.components())
            if weights.structure == structure and not weights.difference(known_fingerprint(model)):
                return metadata
    return None


def metadata_in(folder: Path) -> Metadata | None:
    """What the file of a folder says of a model; None where there is no such file, or it speaks of something else."""
    data = embedded.read_metadata(folder)
    if data is None or "name" not in data:
        return None
    try:
        return Metadata.from_json(data)
    except (KeyError, TypeError, ValueError) as error:
        raise EffaceError(
            f"{folder / embedded.METADATA} is damaged ({error!r}): fetch another copy of the model, or remove it."
        ) from error
