"""The state of a long job to disk and back: attacks, autoencoders, trained erasers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from efface.io.atomic import replacing

State = dict[str, Tensor]
"""Tensors from which a stopped job resumes, by name."""


def moments_of(optimiser: torch.optim.Optimizer) -> dict[tuple[int, str], Tensor]:
    """Moments of an optimiser by the number of their parameter and their name."""
    return {
        (number, name): torch.as_tensor(value)
        for number, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
    }


def set_moments(optimiser: torch.optim.Optimizer, moments: Mapping[tuple[int, str], Tensor]) -> None:
    """Give an optimiser the moments that `moments_of` returned."""
    state: dict[int, State] = {}
    for (number, name), value in moments.items():
        state.setdefault(number, {})[name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


def optimizer_state(optimiser: torch.optim.Optimizer) -> State:
    """Parameters and moments of an optimiser, by number and name."""
    values = {f"{i}|value": p.detach().clone() for i, p in enumerate(_parameters(optimiser))}
    return values | {f"{i}|{name}": value.clone() for (i, name), value in moments_of(optimiser).items()}


def restore_optimizer(optimiser: torch.optim.Optimizer, saved: State) -> None:
    """Give an optimiser and its parameters the state that `optimizer_state` returned; other entries are ignored."""
    parameters = _parameters(optimiser)
    moments = {}
    for key, value in saved.items():
        number, bar, name = key.partition("|")
        if bar and name == "value":
            parameters[int(number)].data.copy_(value)
        elif bar:
            moments[int(number), name] = value.clone()
    set_moments(optimiser, moments)


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """The entries whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def write_state(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a state as one safetensors file, atomically."""
    ready: State = {}
    written: set[int] = set()
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        # Large states are not copied; only parts of others are, which safetensors does not take.
        alone = value.untyped_storage().nbytes() == value.nbytes and value.data_ptr() not in written
        ready[name] = value if alone else value.clone()
        written.add(value.data_ptr())
    with replacing(path) as partial:
        try:
            save_file(ready, partial, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_state(path: Path) -> tuple[State, dict[str, str]]:
    """A state and its metadata; raises SafetensorError or OSError where the file cannot be read."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]
