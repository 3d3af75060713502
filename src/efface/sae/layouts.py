"""What the layouts of autoencoder files share: known entries and tensors, and everything else an error that names it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.io.atomic import write_atomically
from efface.io.tensor_file import HEADER_LIMIT, open_tensors, read_json, serialize
from efface.sae.autoencoder import SAEConfig

ANY = object()
"""Stands for every value of an entry that leaves the reconstruction as it is, or that its reader looks at by itself."""
STATISTICS = ("mean", "std", "var", "norm", "scal", "whiten", "stats")
"""Parts of the names of files that may hold what an autoencoder's inputs are first scaled by."""


def write(folder: Path, name: str, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
    """Write cfg.json and the weights, whose checksum covers both files."""
    text = json.dumps(data, indent=1).encode()
    write_atomically(folder / "cfg.json", text)
    write_atomically(folder / name, serialize(tensors, {"format": "pt"}, beside=text))


class SAEContents(NamedTuple):
    """What the files of an autoencoder hold."""

    config: SAEConfig
    threshold: float
    tensors: dict[str, Tensor]
    """Parameter name of `SparseAutoencoder` -> tensor."""


def require_known(data: Mapping[str, Any], known: Mapping[str, Any], folder: Path, tool: str) -> None:
    """Raise EffaceError for an entry of a configuration that is not known to leave the reconstruction as it is.

    Args:
        data: the configuration.
        known: entry -> the values with which efface reconstructs as the tool does, or `ANY`.
        folder: of the autoencoder.
        tool: whose layout it is.
    """
    for name, value in data.items():
        found = f"{folder}: {name[:60]} is {str(value)[:60]!r} in its configuration"
        if name not in known:
            raise EffaceError(
                f"{found}, an entry of {tool} that efface does not know and that may change what the autoencoder computes: "
                "use another checkpoint, or take the entry out if it changes nothing."
            )
        if known[name] is not ANY and value not in known[name]:
            values = " or ".join(repr(v) for v in known[name])
            raise EffaceError(
                f"{found}; efface reconstructs as {tool} does with {values} only: use another checkpoint."
            )


def require_tensors(stored: Collection[str], needed: Collection[str], harmless: Collection[str], folder: Path) -> None:
    """Raise EffaceError where a tensor is missing, or is one that efface would pass over."""
    missing = sorted(set(needed) - set(stored))
    if missing:
        raise EffaceError(f"{folder} lacks the tensors {missing}: fetch another copy.")
    unknown = sorted(set(stored) - set(needed) - set(harmless))
    if unknown:
        raise EffaceError(
            f"{folder} holds the tensor {unknown[0][:60]!r}, which efface does not know: the autoencoder computes more than "
            f"{', '.join(sorted(needed))} say, so use one without."
        )


def require_no_scaling(folder: Path, harmless: Collection[str] = ()) -> None:
    """Raise EffaceError for a file beside the weights that may hold what the inputs are first centred or scaled by."""
    for path in sorted(folder.iterdir()):
        telling = path.is_file() and any(part in path.stem.lower() for part in STATISTICS)
        if (
            telling
            and path.suffix in (".pt", ".pth", ".npy", ".npz", ".json", ".safetensors")
            and path.name not in harmless
        ):
            raise EffaceError(
                f"{folder} holds {path.name}, by which the inputs may have to be centred or scaled and which efface does not "
                "read: use a checkpoint with that folded into its weights, or move the file away if it changes nothing."
            )


def require_shapes(folder: Path, contents: SAEContents) -> None:
    """Raise EffaceError where tensors are not finite numbers of the shapes that the configuration says.

    Compared before anything of that size is made: a configuration may ask for more memory than there is.
    """
    width = contents.config.width
    latents = contents.config.latents
    expected = {
        "encoder.weight": (latents, width),
        "encoder.bias": (latents,),
        "W_dec": (latents, width),
        "b_dec": (width,),
    }
    shapes = {name: tuple(t.shape) for name, t in contents.tensors.items()}
    if shapes != expected:
        wrong = sorted(set(expected.items()) ^ set(shapes.items()))[0][0]
        raise EffaceError(
            f"{folder} has {wrong} of shape {shapes.get(wrong)}; its configuration says {expected.get(wrong)}: "
            "fetch another copy."
        )
    for name, tensor in contents.tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise EffaceError(f"{folder} holds values that are not finite numbers (in {name}): train it again.")


def transposed(tensor: Tensor) -> Tensor:
    """A matrix the other way round; anything else as it is, to be refused for its shape."""
    return tensor.T if tensor.ndim == 2 else tensor


def threshold_of(value: Any, folder: Path) -> float:
    """A finite threshold of a configuration; raises EffaceError for anything else."""
    if type(value) not in (int, float) or not isfinite(value):
        raise EffaceError(f"{folder}: threshold is {str(value)[:40]!r} in its configuration; expected a finite number.")
    return float(value)


def config_of(path: Path) -> dict[str, Any]:
    """The entries of a configuration file; raises EffaceError where there is none."""
    return _object(path, _text(path))


def _text(path: Path) -> bytes:
    """Bytes of a configuration file; raises EffaceError where it is missing or larger than any configuration."""
    try:
        if not path.is_file() or path.stat().st_size > HEADER_LIMIT:
            raise OSError
        return path.read_bytes()
    except OSError as error:
        raise EffaceError(
            f"{path} could not be read; expected an autoencoder's folder with cfg.json and sae.safetensors."
        ) from error


def _object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data = read_json(text)
    except ValueError as error:
        raise EffaceError(f"{path} is damaged (not JSON): fetch another copy.") from error
    if not isinstance(data, dict):
        raise EffaceError(f"{path} holds {type(data).__name__} where an object was expected: fetch another copy.")
    return data


def entry(data: Mapping[str, Any], name: str, folder: Path) -> int:
    """A whole number above 0 of a configuration; raises EffaceError for anything else."""
    value = data.get(name)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise EffaceError(
            f"{folder}: {name} is {str(value)[:40]} in its configuration; expected a whole number above 0."
        )
    return value


def tensors_of(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights; their checksum, where they have one, covers cfg.json too.

    Files of other tools have none and no metadata of note; one that has lost its checksum is refused.
    """
    path = folder / name
    if not path.exists():
        raise EffaceError(f"{path} is missing or damaged: fetch another copy or train it again.")
    file = open_tensors(path, "an autoencoder's weights", beside=_text(folder / "cfg.json"))
    if not file.has_checksum and set(file.metadata) - {"format"}:
        raise EffaceError(
            f"{path} was altered or damaged: it has lost its checksum; fetch another copy or train it again."
        )
    return file.tensors
