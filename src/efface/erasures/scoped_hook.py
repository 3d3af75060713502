"""Hooks that act in the calls of one pipeline only, on networks that others may share."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from efface.erasures.state import KEY, State
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.models.caller import pipeline_at_work


class ScopedHook:
    """A hook that acts where its own pipeline is at work.

    A network that is called by itself has the erasures of the one pipeline that put any on it; where several did, nobody can
    say which are meant. A copy of a network has copies of its hooks, which act until the copy is in a pipeline.
    """

    is_efface_hook = True
    """Known by name, so that hooks from an earlier import of efface (a hot reload) are found, too."""

    def __init__(self, run: Callable[..., Any] | None, pipeline: weakref.ref[Any] | None, state: State, serial: int):
        self.run = run
        self.pipeline = pipeline
        self.state = state
        self.serial = serial
        """Counts bindings: what one pipeline object put on has one number."""
        self.is_copy = False
        self.is_first = True
        """Whether it acts in a compiled network, whose graph cannot ask who calls."""

    def __call__(self, module: nn.Module, *call: Any) -> Any:
        """What the hook makes of a call; None where it does not act."""
        acts = self.is_first if torch.compiler.is_compiling() else self._acts(module)
        if not acts:
            return None
        if self.run is None:
            raise EffaceError(
                f"a {type(module).__name__} with the erasure of {names_of(self.state)} came from another process and is called "
                "by itself: call it through its pipeline."
            )
        return self.run(module, *call)

    @property
    def is_orphan(self) -> bool:
        """Whether no pipeline object stands behind it."""
        return self.is_copy or self.pipeline is None or self.pipeline() is None

    def belongs_to(self, pipeline: Any) -> bool:
        """Whether a pipeline object put it on."""
        return self.pipeline is not None and self.pipeline() is pipeline

    def _acts(self, module: nn.Module) -> bool:
        working = pipeline_at_work()
        if working is not None and (KEY in vars(working) or not self.is_copy):
            return not self.is_copy and self.belongs_to(working)
        everyone = list(scoped_hooks_on(module))
        hooks = [hook for hook in everyone if not hook.is_orphan] or everyone
        if len({id(hook.state) for hook in hooks}) > 1:
            raise EffaceError(
                f"a {type(module).__name__} that pipelines with different erasures share is called by itself: call it through "
                "the pipeline whose erasures are meant."
            )
        return self.serial == min(hook.serial for hook in hooks)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScopedHook:
        """The hook of a copied network: it acts as before, for whoever calls the copy."""
        copied = ScopedHook(copy.deepcopy(self.run, memo), self.pipeline, copy.deepcopy(self.state, memo), self.serial)
        copied.is_copy = True
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """The hook in another process, where its pipeline puts new ones on before it draws."""
        return ScopedHook, (None, None, self.state, self.serial)


def scoped(hook: Hook, pipeline: Any, state: State, serial: int) -> Hook:
    """The same hook for the calls of one pipeline."""
    return hook._replace(run=ScopedHook(hook.run, weakref.ref(pipeline), state, serial))


def scoped_hooks_on(module: nn.Module) -> Iterator[ScopedHook]:
    """The scoped hooks on one module."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        known: tuple[Any, ...] = tuple(hooks.values())
        yield from (hook for hook in known if getattr(hook, "is_efface_hook", False))


def sweep(network: nn.Module, pipeline: Any) -> None:
    """Take off the hooks of a pipeline, and those behind which no pipeline stands, wherever they are in a network."""
    for module in network.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            known: list[tuple[int, Any]] = list(hooks.items())
            for key, hook in known:
                if getattr(hook, "is_efface_hook", False) and (hook.is_orphan or hook.belongs_to(pipeline)):
                    del hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
                    module._forward_hooks_with_kwargs.pop(key, None)


def elect(network: nn.Module) -> None:
    """Say which hooks act in a compiled network: those of the pipeline that was first."""
    found = [hook for module in network.modules() for hook in scoped_hooks_on(module)]
    first = min((hook.serial for hook in found), default=0)
    for hook in found:
        hook.is_first = hook.serial == first


def names_of(state: State) -> str:
    """The concepts that a state erases, in words."""
    return ", ".join(attachment.erasure.names for attachment in state.attachments)
