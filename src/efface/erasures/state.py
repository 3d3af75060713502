"""The state of a pipeline: what is attached to it, found through the pipeline object or through its networks.

A pipeline object holds its state in its own attributes, so that a copy of the pipeline has a copy of the state. A network
holds the states that put something on it, so that a pipeline made from another's networks finds them. Pipelines with one
scheduler are views of one pipeline, since they cannot draw at the same time: they share one state. A pipeline with a scheduler
of its own is a pipeline of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from threading import RLock
from typing import Any, ClassVar
from weakref import WeakSet

from torch import nn

from efface.erasures.attachment import Attachment
from efface.families.layers import unwrap

KEY = "_efface"
"""Name of the attribute of a pipeline that holds its state, and of a network that holds a list of states."""
LOCK = RLock()
"""Held by whoever attaches, removes, or looks at several states."""


class State:
    """What is attached to a pipeline and its views."""

    arrived: ClassVar[Callable[[list[Attachment]], State]]
    """Makes the state of a pipeline that comes from another process; `watch` says how."""

    def __init__(self, attachments: Iterable[Attachment] = ()):
        self.attachments = list(attachments)
        """In the order in which they were attached."""
        self.version = 0
        """Counts changes of `attachments`."""
        self.pipelines: WeakSet[Any] = WeakSet()
        """The pipeline objects that were seen with it."""
        self.networks: WeakSet[nn.Module] = WeakSet()
        """Where it put hooks or folded weights."""
        self._scheduler: weakref.ref[Any] | None = None

    def find(self, digest: str) -> Attachment | None:
        """The attachment of an erasure by its content."""
        return next((a for a in self.attachments if a.erasure.digest == digest), None)

    def add(self, attachment: Attachment) -> None:
        """Attach one more; hooks and weights follow in `binding`."""
        self.attachments.append(attachment)
        self.version += 1

    def discard(self, attachment: Attachment) -> None:
        """Forget an attachment."""
        if attachment in self.attachments:
            self.attachments.remove(attachment)
            self.version += 1

    @property
    def mapped(self) -> list[Attachment]:
        """The attachments that act on text states."""
        return [a for a in self.attachments if not a.folded and a.erasure.acts_on == "text"]

    @property
    def steering(self) -> list[Attachment]:
        """The attachments that edit activations."""
        return [a for a in self.attachments if not a.folded and a.erasure.acts_on == "activations"]

    @property
    def prompting(self) -> list[Attachment]:
        """The attachments that change which text states there are."""
        return [a for a in self.attachments if not a.folded and a.erasure.acts_on == "prompts"]

    @property
    def guarding(self) -> list[Attachment]:
        """The attachments that act while pictures are drawn, on what the denoiser returns or on text as it comes."""
        return [a for a in self.attachments if not a.folded and a.erasure.acts_on == "sampling"]

    @property
    def folded(self) -> list[Attachment]:
        """The attachments that live in weights."""
        return [a for a in self.attachments if a.folded]

    @property
    def unsaved(self) -> list[Attachment]:
        """The attachments that are in no weight."""
        return [a for a in self.attachments if not a.folded]

    def draws_with(self, scheduler: Any) -> bool:
        """Whether its pipelines draw with this very scheduler."""
        return (None if self._scheduler is None else self._scheduler()) is scheduler

    def add_pipeline(self, pipeline: Any) -> None:
        """Take a pipeline object in as the one, or one more view."""
        self.pipelines.add(pipeline)
        scheduler = getattr(pipeline, "scheduler", None)
        self._scheduler = None if scheduler is None else weakref.ref(scheduler)
        vars(pipeline)[KEY] = self

    def fork(self) -> State:
        """A state of its own that begins with the same; what is in the weights stays common, as the weights are."""
        mapped = {id(a): Attachment(a.erasure, a.scale, False, a.force, a.count) for a in self.attachments}
        return State(a if a.folded else mapped[id(a)] for a in self.attachments)

    def mark(self, network: nn.Module) -> None:
        """Note that it put something on a network, there and here."""
        states = vars(network).setdefault(KEY, [])
        if self not in states:
            states.append(self)
        self.networks.add(network)

    def unmark(self, network: nn.Module) -> None:
        """Note that nothing is left on a network."""
        states = vars(network).get(KEY, [])
        if self in states:
            states.remove(self)
        self.networks.discard(network)

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        """A copy that belongs to no pipeline yet; the copied pipeline claims it when it is next used."""
        copied = State(a.__deepcopy__(memo) for a in self.attachments)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """As `__deepcopy__`, for another process."""
        return type(self).arrived, (self.attachments,)


def state_of(pipeline: Any) -> State | None:
    """The state of a pipeline object; None where nothing was ever attached to it, to a view, or to what it came from."""
    with LOCK:
        state = vars(pipeline).get(KEY)
        if state is None or not state.attachments:  # nothing of its own: what its networks bring counts
            state = _inherited(pipeline) or state
        if state is None:
            return None
        is_view = state.draws_with(getattr(pipeline, "scheduler", None))
        if is_view and pipeline in state.pipelines:
            return state
        if not is_view and any(other is not pipeline for other in state.pipelines):
            state.pipelines.discard(pipeline)
            state = state.fork()
        state.add_pipeline(pipeline)
        return state


def states_around(pipeline: Any) -> list[State]:
    """The states with something on a network of a pipeline, its own included."""
    found = [s for _, network in networks_in(pipeline) for s in vars(network).get(KEY, ()) if s.attachments]
    return list(dict.fromkeys(found))


def networks_in(pipeline: Any) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of everything in a pipeline that has weights, unwrapped from torch.compile."""
    for name, part in list(vars(pipeline).items()):
        if isinstance(part, nn.Module):
            network = unwrap(part)
            yield name, network
            nets = getattr(network, "nets", None)
            if name == "controlnet" and isinstance(nets, nn.ModuleList):
                yield from ((f"{name}.nets.{i}", unwrap(net)) for i, net in enumerate(nets))


def _inherited(pipeline: Any) -> State | None:
    """The state that a pipeline has from where its networks come from."""
    around = states_around(pipeline)
    scheduler = getattr(pipeline, "scheduler", None)
    for state in around:
        if scheduler is not None and state.draws_with(scheduler):
            return state
    living = [state for state in around if len(state.pipelines)]
    if len(around) == 1 and not living:  # a copied network, or one whose pipeline is gone
        return around[0]
    folded = dict.fromkeys(a for state in around for a in state.folded)
    return State(folded) if folded else None
