"""What the searches by gradient share: the loss, and optimisers that can be put down and taken up again."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.attacks.base import State
from efface.models.model import Model, Text


def apart(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of every row (batch,)."""
    return (outputs - targets).square().flatten(1).mean(1)


def denoising_loss(model: Model, clean: Tensor, noise: Tensor, level: Tensor, text: Text) -> Tensor:
    """|target − ε(z_t, t, text)|² of every row (batch,), in the terms of what the model predicts."""
    noisy = model.to_noisy(clean, noise, level)
    return apart(model.predict(noisy, level, text), model.to_output(clean, noise, level))


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


def through(values: Tensor, soft: Tensor) -> Tensor:
    """`values`, whose gradient goes to `soft` (straight through)."""
    return values.detach() - soft.detach() + soft
