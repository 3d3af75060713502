"""Where text states enter a network and can be replaced, and where its noise level is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def _same(level: Tensor) -> Tensor:
    return level


class Door(NamedTuple):
    """A call in which text states can be replaced on their way to the projections."""

    module: nn.Module
    """The module that is called."""
    argument: str | None = None
    """The argument that holds the states; None where they are the module's output."""
    position: int = 0
    """Its place among positional arguments."""

    def on_text(self, change: Callable[[Tensor], Tensor]) -> Any:
        """Have the states (… width) replaced by `change` of them at every call; returns the handle that ends it."""
        name = self.argument
        if name is None:

            def after(module: Any, args: Any, output: Any) -> Tensor:
                return change(output)

            return self.module.register_forward_hook(after)

        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            given = kwargs[name] if name in kwargs else args[self.position]
            # IP-Adapter may pass (text, images).
            changed: Any = (change(given[0]), *given[1:]) if isinstance(given, tuple) else change(given)
            if name in kwargs:
                return args, kwargs | {name: changed}
            return (*args[: self.position], changed, *args[self.position + 1 :]), kwargs

        return self.module.register_forward_pre_hook(hook, with_kwargs=True)


class Entry(NamedTuple):
    """A network that text states enter: the denoiser, or a ControlNet beside it."""

    name: str
    """The pipeline component's name."""
    module: nn.Module
    """The network itself, unwrapped from torch.compile."""
    doors: tuple[Door, ...]
    """Where the text states can be replaced; every projection lies behind one of them."""
    timestep: tuple[str, int] = ("timestep", 1)
    """Name and place of the argument that holds the noise level."""
    to_level: Callable[[Tensor], Tensor] = _same
    """From what the network takes for a noise level to the scheduler's timestep (0 to 1000)."""

    def level(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The scheduler's timestep of a call (batch, or one for all)."""
        name, position = self.timestep
        given = kwargs[name] if name in kwargs else args[position]
        return self.to_level(torch.as_tensor(given).detach().reshape(-1))
