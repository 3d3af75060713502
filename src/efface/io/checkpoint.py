"""The state of a long job to disk and back: attacks, autoencoders, trained erasers."""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]
"""What a search needs to go on where it was stopped."""


def put_down(optimiser: torch.optim.Optimizer) -> State:
    """Parameters and moments of an optimiser, by number and name."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    found = {f"{i}|value": p.detach().clone() for i, p in enumerate(parameters)}
    for i, moments in optimiser.state_dict()["state"].items():
        found |= {f"{i}|{name}": torch.as_tensor(value).clone() for name, value in moments.items()}
    return found


def take_up(optimiser: torch.optim.Optimizer, saved: State) -> None:
    """Bring an optimiser and its parameters to where `put_down` found them."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, State] = {}
    for key, value in saved.items():
        number, bar, name = key.partition("|")
        if bar and name == "value":
            parameters[int(number)].data.copy_(value)
        elif bar:
            moments.setdefault(int(number), {})[name] = value.clone()
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
