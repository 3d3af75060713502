"""Where text states enter a network and can be replaced, and where its noise level is read."""

from __future__ import annotations

import inspect
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
    first: bool = False
    """Whether it comes before the hooks that are there already: transformers keeps what encoders' layers return by hooks of its own,
    which would keep it unedited."""

    def register(self) -> RemovableHandle:
        """Have it run from now on; returns the handle that ends it."""
        if self.before:
            return self.module.register_forward_pre_hook(self.run, with_kwargs=True, prepend=self.first)
        return self.module.register_forward_hook(self.run, with_kwargs=True, prepend=self.first)


class TextInput(NamedTuple):
    """A call in which text can be replaced on its way to the projections."""

    module: nn.Module
    """The module that is called."""
    argument: str | None = None
    """The argument that holds the states; None where they are the module's output."""
    position: int = 0
    """Index of that argument where it is passed by position."""
    key: str | None = None
    """Its entry that holds them, where the argument is a dictionary."""

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """What the argument of a call holds; None where the call leaves it out."""
        assert self.argument is not None
        given = (
            kwargs[self.argument] if self.argument in kwargs else (args[self.position : self.position + 1] or [None])[0]
        )
        if self.key is not None:
            return None if given is None else given.get(self.key)
        return given[0] if isinstance(given, tuple) else given

    def replace(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with what this one holds changed; IP-Adapter may pass text states as (text, images)."""
        name, position = self.argument, self.position
        assert name is not None
        old = kwargs[name] if name in kwargs else args[position]
        if self.key is not None:
            new: Any = old | {self.key: change(old[self.key])}
        else:
            new = (change(old[0]), *old[1:]) if isinstance(old, tuple) else change(old)
        if name in kwargs:
            return args, kwargs | {name: new}
        return (*args[:position], new, *args[position + 1 :]), kwargs

    def hook(self, change: Callable[[Tensor], Tensor]) -> Hook:
        """The hook that replaces the states (… width) by `change` of them at every call."""

        def before(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if self.read(args, kwargs) is None:
                return args, kwargs
            return self.replace(args, kwargs, change)

        def after(module: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
            return change(output)

        named = self.argument is not None
        return Hook(self.module, before if named else after, before=named)


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
    pooled: TextInput | None = None
    """Where one vector a prompt can be replaced, in the network's own call; None where none enters, or none that efface maps."""

    def timestep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The scheduler's timestep of a call (batch, or one for all)."""
        name, position = self.timestep_argument
        value = kwargs[name] if name in kwargs else args[position]
        return self.to_timestep(torch.as_tensor(value).detach().reshape(-1))


def with_pooled(network: Network, layer: str, argument: str, key: str | None = None) -> Network:
    """A network with the way in of its pooled text; as it is where it has no such layer, where its call has no such argument, or
    where text states come elsewhere than in this call, so that nothing could decide on both.

    Args:
        network: whose call has the argument.
        layer: path of the linear layer that reads it.
        argument: name of the call's argument.
        key: its entry, where it is a dictionary.
    """
    names = list(inspect.signature(type(network.module).forward).parameters)[1:]
    if "args" in names:  # only names of it were loaded, and nothing calls it
        names = [argument]
    together = all(text.module is network.module and text.argument for text in network.text_inputs)
    if argument not in names or not together or not has_layer(network.module, layer):
        return network
    return network._replace(pooled=TextInput(network.module, argument, names.index(argument), key))


def has_layer(network: nn.Module, path: str) -> bool:
    """Whether a network has a module at a path."""
    try:
        network.get_submodule(path)
    except AttributeError:
        return False
    return True


def joint_hook(text: TextInput, pooled: TextInput, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Hook:
    """The hook that replaces text states (batch tokens width) and pooled text (batch width) of one call together.

    Args:
        text: where the states come.
        pooled: where the pooled text comes, in the same call.
        change: of both.
    """

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states, vectors = text.read(args, kwargs), pooled.read(args, kwargs)
        if states is None or vectors is None:
            return args, kwargs
        new_states, new_vectors = change(states, vectors)
        args, kwargs = text.replace(args, kwargs, lambda old: new_states)
        return pooled.replace(args, kwargs, lambda old: new_vectors)

    return Hook(text.module, before, before=True)
