"""Bindings: hooks and folded weights of one pipeline object, made to say what its state says.

A binding notices when it no longer holds: a network was replaced or added, the pipeline was copied or sent to another process,
another view attached something. It is looked at before every call, and made anew where needed, or the call stops.
"""

from __future__ import annotations

import itertools
import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from efface.erasures.attachment import Attachment
from efface.erasures.conditions import component_of, require_alone, require_base, require_foldable, target_names
from efface.erasures.fold_record import folds_in, is_folded
from efface.erasures.folds import fold
from efface.erasures.scoped_hook import elect, names_of, scoped, scoped_hooks_on, sweep
from efface.erasures.state import KEY, State, networks_in
from efface.errors import EffaceError
from efface.models.model import Model
from efface.models.precision import own_arithmetic

_SERIAL = itertools.count(1)
_BINDINGS: WeakKeyDictionary[Any, Binding] = WeakKeyDictionary()
"""Pipeline object -> its binding."""


class Binding:
    """What one pipeline object put on its networks."""

    def __init__(self, pipeline: Any, state: State):
        self.state = state
        self.version = state.version
        self.serial = next(_SERIAL)
        self.parts = {name: weakref.ref(network) for name, network in networks_in(pipeline)}
        self.handles: list[tuple[Attachment, RemovableHandle]] = []

    def holds(self, pipeline: Any, state: State) -> bool:
        """Whether pipeline and state are still those that it was made for."""
        if self.state is not state or self.version != state.version:
            return False
        parts = list(networks_in(pipeline))
        return (
            len(parts) == len(self.parts)
            and all(self.has(name, network) for name, network in parts)
            and all(is_on(handle) for _, handle in self.handles)
        )

    def has(self, name: str, network: nn.Module) -> bool:
        """Whether a network of that name was there."""
        known = self.parts.get(name)
        return known is not None and known() is network

    def replaced(self, pipeline: Any) -> list[str]:
        """Names of the networks in whose place there is another one now."""
        return [name for name, network in networks_in(pipeline) if name in self.parts and not self.has(name, network)]

    def release(self, attachment: Attachment | None = None) -> None:
        """Take the hooks of one attachment off, or all."""
        for owner, handle in self.handles:
            if attachment is None or owner is attachment:
                handle.remove()
        self.handles = [(owner, h) for owner, h in self.handles if attachment is not None and owner is not attachment]


def is_on(handle: RemovableHandle) -> bool:
    """Whether nobody took a hook off past its handle."""
    hooks = handle.hooks_dict_ref()
    return hooks is not None and handle.id in hooks


def binding_of(pipeline: Any) -> Binding | None:
    """The binding of a pipeline object; None where it has none yet."""
    return _BINDINGS.get(pipeline)


def bind(pipeline: Any, state: State) -> None:
    """Make hooks and weights of a pipeline object say what its state says; call it with the lock held.

    Raises:
        EffaceError: what is attached does not fit the networks that the pipeline has now.
    """
    binding = _BINDINGS.get(pipeline)
    if binding is not None and binding.holds(pipeline, state):
        return
    if not state.attachments:
        release(pipeline, state)
        return
    try:
        model = Model(pipeline)
        with own_arithmetic():
            _check_replaced(binding, pipeline, model, state)
            for attachment in state.folded:
                _fold(model, state, attachment)
            _hook(pipeline, model, state)
    except EffaceError:
        if binding is not None and binding.version == state.version and _only_lost(binding, pipeline):
            return  # a text encoder was dropped after the prompts were encoded
        raise


def release(pipeline: Any, state: State, attachment: Attachment | None = None) -> None:
    """Take the hooks of one attachment off the networks of a pipeline object, or all that it put there."""
    binding = _BINDINGS.get(pipeline)
    if binding is None and not len(state.networks):
        return
    if binding is not None:
        binding.release(attachment)
        binding.version = state.version
        if not binding.handles:
            del _BINDINGS[pipeline]
    networks = list(state.networks)
    for network in networks:
        hooks = (hook for module in network.modules() for hook in scoped_hooks_on(module))
        if not any(hook.state is state for hook in hooks) and folds_in(network) is None:
            state.unmark(network)
    renew_graphs(pipeline, networks)


def _only_lost(binding: Binding, pipeline: Any) -> bool:
    """Whether a pipeline lacks networks that were there, and has no other ones."""
    return all(binding.has(name, network) for name, network in networks_in(pipeline))


def _check_replaced(binding: Binding | None, pipeline: Any, model: Model, state: State) -> None:
    """Raise EffaceError where a network was replaced by one of another model."""
    names = [] if binding is None else binding.replaced(pipeline)
    if not set(names) & set(model.components()):
        return
    for attachment in state.attachments:
        try:
            require_base(attachment.erasure, model, attachment.force)
        except EffaceError as error:
            raise EffaceError(
                f"the {' and the '.join(names)} of the pipeline was replaced while an erasure is attached, and {error}"
            ) from error


def _fold(model: Model, state: State, attachment: Attachment) -> None:
    """Fold an erasure into those networks that do not have it yet."""
    erasure = attachment.erasure
    components = model.components()
    targets = erasure.targets()
    if targets is None:
        wanted = {network.name for network in model.networks()}
    else:
        wanted = {component_of(components, name) for name in targets}
    for name in wanted:
        state.mark(components[name])
    missing = {name for name in wanted if not is_folded(components[name], attachment)}
    if not missing:
        return
    require_foldable(model, erasure)
    require_alone(model, erasure)
    paths: dict[str, list[str]] = defaultdict(list)
    for name in target_names(model, erasure):
        component = component_of(components, name)
        paths[component].append(name.removeprefix(f"{component}."))
    for component in missing & set(paths):
        fold(components[component], component, attachment, paths[component])


def _hook(pipeline: Any, model: Model, state: State) -> None:
    """Put the hooks of a pipeline object on, in the place of those that it had."""
    networks = list(dict.fromkeys(model.components().values()))
    binding = Binding(pipeline, state)
    # Hooks run in the order in which they come: what only reads a prompt, what puts another in its place, and of the maps the latest
    # first, so that A, then B, is W M_A M_B.
    wanted = [
        (attachment, hook)
        for attachment in (*state.steering, *state.prompting, *state.guarding, *reversed(state.mapped))
        for hook in attachment.erasure.changes(model, attachment.scale)
    ]
    if is_compiled(pipeline):
        _require_only(state, networks)
    if pipeline in _BINDINGS:
        _BINDINGS[pipeline].release()
    for network in networks:
        sweep(network, pipeline)
        for other in list(vars(network).get(KEY, ())):
            if other is not state and not len(other.pipelines) and not other.folded:
                other.unmark(network)
    for attachment, hook in wanted:
        binding.handles.append((attachment, scoped(hook, pipeline, state, binding.serial).register()))
    hooked = {id(hook.module) for _, hook in wanted}
    for network in networks:
        if any(id(module) in hooked for module in network.modules()):
            state.mark(network)
    _BINDINGS[pipeline] = binding
    renew_graphs(pipeline, networks)


def renew_graphs(pipeline: Any, networks: Iterable[nn.Module]) -> None:
    """Have compiled networks traced anew: a graph would not notice that hooks inside it came or went."""
    for network in networks:
        elect(network)
    if is_compiled(pipeline):
        torch.compiler.reset()


def is_compiled(pipeline: Any) -> bool:
    """Whether torch.compile has wrapped a network of a pipeline, from outside or in place, or a part of it."""
    parts = (part for part in vars(pipeline).values() if isinstance(part, nn.Module))
    modules = (module for part in parts for module in part.modules())
    return any("_orig_mod" in m._modules or getattr(m, "_compiled_call_impl", None) is not None for m in modules)


def _require_only(state: State, networks: Iterable[nn.Module]) -> None:
    """Raise EffaceError where another living pipeline has erasures of its own on a compiled network."""
    for network in networks:
        for other in vars(network).get(KEY, ()):
            if other is not state and len(other.pipelines) and other.attachments:
                raise EffaceError(
                    f"a compiled {type(network).__name__} has the erasure of {names_of(other)} from another pipeline, and its graph "
                    "cannot tell pipelines apart: give this pipeline a copy of its own (copy.deepcopy) before compiling."
                )
