"""Where text states enter a network and can be replaced, and where its noise level is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def _identity(value: Tensor) -> Tensor:
    return value


class Hook(NamedTuple):
    """What is to happen at the calls of a module."""

    module: nn.Module
    """The module."""
    run: Callable[..., Any]
    """Before a call `(module, args, kwargs)`, after it `(module, args, kwargs, output)`; None leaves all as it is."""
    before: bool
    """Whether it runs before the call or after."""

    def register(self) -> RemovableHandle:
        """Have it run from now on; returns the handle that ends it."""
        if self.before:
            return self.module.register_forward_pre_hook(self.run, with_kwargs=True)
        return self.module.register_forward_hook(self.run, with_kwargs=True)


class TextInput(NamedTuple):
    """A call in which text states can be replaced on their way to the projections."""

    module: nn.Module
    """The module that is called."""
    argument: str | None = None
    """The argument that holds the states; None where they are the module's output."""
    position: int = 0
    """Index of that argument where it is passed by position."""

    def hook(self, change: Callable[[Tensor], Tensor]) -> Hook:
        """The hook that replaces the states (… width) by `change` of them at every call."""
        name = self.argument

        def before(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            assert name is not None
            return replace_text(args, kwargs, name, self.position, change)

        def after(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
            return change(output)

        return Hook(self.module, after if name is None else before, before=name is not None)


class Network(NamedTuple):
    """A network that text states enter: the denoiser, or a ControlNet beside it."""

    name: str
    """The pipeline component's name."""
    module: nn.Module
    """The network itself, unwrapped from torch.compile."""
    text_inputs: tuple[TextInput, ...]
    """Where the text states can be replaced; every projection lies behind one of them."""
    timestep_argument: tuple[str, int] = ("timestep", 1)
    """Name and position of the argument that holds the noise level."""
    to_timestep: Callable[[Tensor], Tensor] = _identity
    """From what the network takes for a noise level to the scheduler's timestep (0 to 1000)."""

    def timestep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The scheduler's timestep of a call (batch, or one for all)."""
        name, position = self.timestep_argument
        value = kwargs[name] if name in kwargs else args[position]
        return self.to_timestep(torch.as_tensor(value).detach().reshape(-1))


def replace_text(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str, position: int, change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with the text states changed, which IP-Adapter may pass as (text, images)."""
    old = kwargs[name] if name in kwargs else args[position]
    new: Any = (change(old[0]), *old[1:]) if isinstance(old, tuple) else change(old)
    if name in kwargs:
        return args, kwargs | {name: new}
    return (*args[:position], new, *args[position + 1 :]), kwargs
