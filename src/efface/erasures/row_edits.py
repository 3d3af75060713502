"""RowEdits: erasures on a pipeline of which each acts on those rows of a batch whose policy has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from torch import Tensor, nn

from efface.erasures.interface import ModelEdit, Reader
from efface.erasures.provenance import Provenance
from efface.erasures.selection import Batch, Choice, batch_of, within
from efface.erasures.slices import Rows, Slice
from efface.erasures.transport import without_graph
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.models.model import Model


@dataclass(frozen=True, eq=False)
class RowEdits(ModelEdit):
    """Several erasures that act in the same way, attached once; a policy names some of them.

    It has no file: its erasures have. Of two in one policy, the later acts on the text first, as when both are attached.
    """

    owner: str
    """Digest of all policies."""
    edits: tuple[ModelEdit, ...]
    """In an order in which every policy's stand."""
    policies: Mapping[str, tuple[int, ...]]
    """Name of a policy -> which of the edits are its own, in rising order."""

    kind = "policies"

    @classmethod
    def of(cls, owner: str, edits: Sequence[ModelEdit], policies: Mapping[str, tuple[int, ...]]) -> RowEdits:
        """The edits of policies; at least one."""
        concepts = {concept.name: concept for edit in edits for concept in edit.provenance.concepts}
        origin: Provenance = replace(
            edits[0].provenance, method="policies", config={}, concepts=tuple(concepts.values())
        )
        return cls(provenance=origin, owner=owner, edits=tuple(edits), policies=dict(policies))

    @property
    def parts(self) -> tuple[ModelEdit, ...]:
        """The erasures."""
        return self.edits

    @property
    def by_policy(self) -> str:
        """The digest of all policies."""
        return self.owner

    @property
    def names(self) -> str:
        """The concepts in words, and that not every row is erased of them."""
        return f"{super().names} (by policy)"

    @property
    def maps_pooled(self) -> bool:
        """Whether all of them map pooled text."""
        return all(edit.maps_pooled for edit in self.edits)

    @cached_property
    def digest(self) -> str:
        """That of the policies, and how these act."""
        return f"{self.owner}{self.acts_on}"

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """What notes the rows of every call of a network, and one hook at each module that some erasure changes.

        Raises:
            EffaceError: an erasure cannot act on some rows of a batch.
        """
        doors = _Doors(model, self)
        merged: dict[tuple[int, bool], tuple[nn.Module, _ByRow]] = {}
        for number, edit in self._in_order():
            for hook in edit.changes_by_row(model, scale):
                key = id(hook.module), hook.before
                if key not in merged:
                    merged[key] = hook.module, _ByRow(doors.of(hook.module), hook.before)
                merged[key][1].add(number, hook)
        hooks = [Hook(module, by_row, by_row.before, by_row.first) for module, by_row in merged.values()]
        return [*doors.hooks, *hooks]

    def _in_order(self) -> Iterator[tuple[int, ModelEdit]]:
        """Each edit with its number, in the order in which their hooks run."""
        numbered = list(enumerate(self.edits))
        return iter(numbered[::-1] if self.acts_on == "text" else numbered)

    def active(self, names: Choice) -> set[int]:
        """Numbers of the edits that some of these policies have."""
        given = {*names} if isinstance(names, tuple) else {names}
        return {number for name in given if name is not None for number in self.policies[name]}

    def rows(self, names: Sequence[str | None]) -> dict[int, Rows]:
        """Number of an edit -> the rows that it acts on, in the order in which the edits act."""
        found: dict[int, list[int]] = {}
        for row, name in enumerate(names):
            for number in () if name is None else self.policies[name]:
                found.setdefault(number, []).append(row)
        numbers = sorted(found, reverse=self.acts_on == "text")
        return {number: Rows(found[number]) for number in numbers}

    def __deepcopy__(self, memo: dict[int, Any]) -> RowEdits:
        """Itself: it never changes."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        return {f"{number}|{name}": part for number, e in enumerate(self.edits) for name, part in e.tensors().items()}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        raise EffaceError("policies have no file of their own: write a manifest.")


class TextRows(RowEdits):
    """Those that map text."""

    acts_on = "text"


class GuardRows(RowEdits):
    """Those that act while pictures are drawn."""

    acts_on = "sampling"

    @property
    def reads_prompts_only(self) -> bool:
        """Whether pooled text beside the states escapes one of them."""
        return any(edit.reads_prompts_only for edit in self.edits)


class ActivationRows(RowEdits):
    """All others: what they change are the outputs of modules."""

    acts_on = "activations"


@dataclass(frozen=True)
class _Call:
    """What is known of a network's current call."""

    batch: Batch
    count: int
    """Rows that it is given."""
    door: _Door

    @cached_property
    def names(self) -> tuple[str | None, ...]:
        """The policy of each row; raises EffaceError where that cannot be told."""
        return self.batch.of_rows(self.count, prompts=self.door.prompts)

    @cached_property
    def rows(self) -> dict[int, Rows]:
        """Number of an edit -> the rows that it acts on."""
        return self.door.edits.rows(self.names)


class _Door:
    """A hook that notes how many rows each call of a network has."""

    def __init__(self, edits: RowEdits, *, prompts: bool):
        self.edits = edits
        self.prompts = prompts

    @without_graph
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        batch = batch_of(self.edits.owner, type(module).__name__)
        count = _batch_size(module, args, kwargs)
        known = batch.doors.get(self)
        if known is None or known.count != count:
            batch.doors[self] = _Call(batch=batch, count=count, door=self)

    def call(self, module: nn.Module) -> _Call:
        """What was noted; raises EffaceError where a part of the network is called by itself."""
        batch = batch_of(self.edits.owner, type(module).__name__)
        if self not in batch.doors:
            raise EffaceError(
                f"a {type(module).__name__} is called past the network that it is a part of, so that nobody knows which rows it "
                "computes: call the whole network, or choose policies without an erasure that acts there."
            )
        return batch.doors[self]


class _Doors:
    """The doors of a model's networks, made when the first hook within is."""

    def __init__(self, model: Model, edits: RowEdits):
        self.edits = edits
        self.denoisers = {id(network.module) for network in model.networks()}
        networks = [*model.components().values(), *(network.module for network in model.networks())]
        self.home = {id(module): network for network in networks for module in network.modules()}
        self.doors: dict[int, _Door] = {}
        self.hooks: list[Hook] = []

    def of(self, module: nn.Module) -> _Door:
        """The door of the network that a module is in."""
        network = self.home[id(module)]
        if id(network) not in self.doors:
            door = _Door(self.edits, prompts=id(network) not in self.denoisers)
            self.doors[id(network)] = door
            self.hooks.append(Hook(network, door, before=True))
        return self.doors[id(network)]


class _ByRow:
    """A hook that runs those of several erasures, each on the rows of a call whose policy has it."""

    def __init__(self, door: _Door, before: bool):
        self.door = door
        self.before = before
        self.first = False
        """Whether any of them comes before the module's own hooks."""
        self.runs: dict[int, list[Callable[..., Any]]] = {}
        """Number of an edit -> its hooks here."""
        self.readers: dict[int, list[Callable[..., Any]]] = {}
        """Number of an edit -> those of them that are given whole batches."""

    def add(self, number: int, hook: Hook) -> None:
        """Have one more hook run, of an edit."""
        self.first = self.first or hook.first
        if isinstance(hook.run, Reader):
            self.readers.setdefault(number, []).append(hook.run.read)
        else:
            self.runs.setdefault(number, []).append(hook.run)

    @without_graph
    def __call__(self, module: nn.Module, *given: Any) -> Any:
        call = self.door.call(module)
        for number in self.readers.keys() & self.door.edits.active(call.batch.names):
            for read in self.readers[number]:
                read(module, *given)
        result = None
        for number, rows in call.rows.items() if self.runs else ():
            for run in self.runs.get(number, ()):
                changed = self._run(run, module, given, call, rows)
                if changed is not None:
                    result = changed
                    given = changed if self.before else (*given[:-1], changed)
        return result

    def _run(self, run: Callable[..., Any], module: nn.Module, given: tuple[Any, ...], call: _Call, rows: Rows) -> Any:
        """What one hook makes of a call; None where it changes nothing."""
        if len(rows.numbers) == call.count:
            return run(module, *given)
        sliced = Slice(given, rows, call.count)
        # A guard that calls the network once more does so for these rows.
        names = tuple(call.names[row] for row in rows.numbers)
        part = rows.numbers, call.count
        with within(Batch(owner=call.batch.owner, names=names, counted=True, part=part)):
            changed = run(module, *sliced.value)
        if changed is None:
            return None
        where = type(module).__name__
        if self.before:
            return sliced.put_back(changed, where)
        return sliced.put_back((*sliced.value[:-1], changed), where)[-1]


def _batch_size(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many rows a network is given: the length of its first argument."""
    value = args[0] if args else kwargs.get(_first_argument(type(module)))
    if value is None:
        raise EffaceError(
            f"the {type(module).__name__} is called without its first argument: its rows cannot be counted."
        )
    return len(value)


@cache
def _first_argument(kind: type[nn.Module]) -> str:
    return list(inspect.signature(kind.forward).parameters)[1]
