"""efface.check: what is attached to a pipeline, where, and whether it is intact."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from efface.erasures.attachment import Attachment
from efface.erasures.binding import binding_of
from efface.erasures.conditions import difference_from_base
from efface.erasures.fold_record import folds_in
from efface.erasures.scoped_hook import ScopedHook, scoped_hooks_on
from efface.erasures.state import LOCK, State, networks_in, state_of, states_around
from efface.erasures.weight_status import WeightStatus, inspect
from efface.errors import EffaceError
from efface.models.model import Model


@dataclass(frozen=True)
class Row:
    """One erasure on a pipeline."""

    concepts: str
    """What it erases."""
    digest: str
    """The first twelve digits of what identifies it."""
    way: str
    """`mapped`, `folded`, `activations`, `prompts` or `sampling`."""
    scale: float
    """The scale that it is attached with."""
    count: int
    """How often it was attached."""
    networks: tuple[str, ...]
    """The pipeline's networks that it is on."""
    problem: str
    """What is wrong with it, in words; empty where it is intact."""


@dataclass(frozen=True)
class Report:
    """What is attached to a pipeline; prints as a table, and is true where all of it is intact."""

    pipeline: str
    """Class of the pipeline."""
    rows: tuple[Row, ...]
    """In the order in which they were attached."""
    elsewhere: tuple[str, ...]
    """What other pipelines on the same networks erase, which does not act in this one's calls."""

    @property
    def intact(self) -> bool:
        """Whether every erasure is where it should be, unchanged."""
        return not any(row.problem for row in self.rows)

    def __bool__(self) -> bool:
        return bool(self.rows) and self.intact

    def __str__(self) -> str:
        if not self.rows:
            lines = [f"nothing is attached to this {self.pipeline}"]
        else:
            head = ("erases", "digest", "way", "scale", "times", "on", "intact")
            cells = [
                (r.concepts, r.digest, r.way, f"{r.scale:g}", str(r.count), ", ".join(r.networks), r.problem or "yes")
                for r in self.rows
            ]
            widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
            rows = (zip(row, widths, strict=True) for row in (head, *cells))
            lines = ["  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in rows]
        return "\n".join(
            [*lines, *(f"(another pipeline on the same networks erases {names})" for names in self.elsewhere)]
        )


def check(pipeline: Any) -> Report:
    """What is attached to a pipeline: what it erases, how, on which networks, and whether it is intact.

    Every value of every folded weight is compared with what was written, which takes a moment; nothing is changed.
    """
    with LOCK:
        state = state_of(pipeline)
        networks = dict(networks_in(pipeline))
        rows = () if state is None else tuple(_row(pipeline, state, a, networks) for a in state.attachments)
        others = [other for other in states_around(pipeline) if other is not state and len(other.pipelines)]
    elsewhere = tuple(", ".join(a.erasure.names for a in other.unsaved) for other in others if other.unsaved)
    return Report(pipeline=type(pipeline).__name__, rows=rows, elsewhere=elsewhere)


def _row(pipeline: Any, state: State, attachment: Attachment, networks: dict[str, nn.Module]) -> Row:
    """What is to be said of one attachment."""
    if attachment.folded:
        places, problem = _folded(attachment, networks)
    else:
        places, problem = _hooked(pipeline, state, networks)
    if not problem and not attachment.force and not attachment.folded:
        problem = _other_weights(pipeline, attachment)
    return Row(
        concepts=attachment.erasure.names,
        digest=attachment.erasure.digest[:12],
        way="folded"
        if attachment.folded
        else {"text": "mapped"}.get(attachment.erasure.acts_on, attachment.erasure.acts_on),
        scale=attachment.scale,
        count=attachment.count,
        networks=places,
        problem=problem,
    )


def _hooked(pipeline: Any, state: State, networks: dict[str, nn.Module]) -> tuple[tuple[str, ...], str]:
    """The networks with hooks of a pipeline, and what is wrong with them."""
    binding = binding_of(pipeline)
    own: list[str] = []
    for name, network in networks.items():
        hooks: list[ScopedHook] = [hook for module in network.modules() for hook in scoped_hooks_on(module)]
        if any(hook.state is state for hook in hooks):
            own.append(name)
    if binding is None:
        return tuple(own), "not yet: the pipeline was copied, and gets it with its next call"
    if not binding.holds(pipeline, state):
        names = binding.replaced(pipeline)
        what = f"the {' and the '.join(names)} was replaced" if names else "its hooks or networks changed"
        return tuple(own), f"not yet: {what}; the next call puts it on, or stops"
    return tuple(own), ""


def _folded(attachment: Attachment, networks: dict[str, nn.Module]) -> tuple[tuple[str, ...], str]:
    """The networks with an erasure in their weights, and what is wrong with them."""
    names: list[str] = []
    counts: Counter[WeightStatus] = Counter()
    for name, network in networks.items():
        folds = folds_in(network)
        entry = None if folds is None else folds.entry(attachment)
        if entry is not None:
            names.append(name)
            counts += Counter(weight.status for weight in inspect(network, entry.paths))
    if not names:
        return (), "not yet: its network was replaced; the next call puts it on, or stops"
    wrong = {status: n for status, n in counts.items() if status not in (WeightStatus.INTACT, WeightStatus.ROUNDED)}
    return tuple(names), "; ".join(f"{n} of {sum(counts.values())} weights {s.value}" for s, n in wrong.items())


def _other_weights(pipeline: Any, attachment: Attachment) -> str:
    """In what the weights under an erasure differ from those it was made for, where they changed since it was attached."""
    for part in attachment.erasure.parts:
        try:
            difference = difference_from_base(part, Model(pipeline))
        except EffaceError:  # its projections were fused since
            continue
        if difference.text and not difference.structural:
            return f"made for another model: the pipeline has {difference.text}"
    return ""
