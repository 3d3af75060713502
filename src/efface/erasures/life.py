"""The life of erasures on a pipeline: attach, remove, and what is attached."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from efface.erasures.attachment import Attachment
from efface.erasures.binding import bind, binding_of, release
from efface.erasures.conditions import require_base, require_order, warn_of_unmapped
from efface.erasures.folds import unfold
from efface.erasures.interface import ModelEdit
from efface.erasures.state import KEY, LOCK, State, networks_in, state_of
from efface.erasures.watch import require_idle, watch, watch_class
from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from efface.models.precision import own_arithmetic

_BLOCKS: ContextVar[frozenset[object]] = ContextVar("blocks", default=frozenset())
"""The `with erasure.attached(...)` blocks in which this thread or task is."""


def attached_to(pipeline: Any) -> list[Attachment]:
    """What is attached to a pipeline, in order."""
    state = state_of(pipeline)
    return [] if state is None else list(state.attachments)


@contextmanager
def attached(erasure: ModelEdit, pipeline: Any, *, scale: float, fold: bool, force: bool) -> Iterator[None]:
    """Context in which an erasure is attached; see `Erasure.attached`."""
    block = object()
    attach(erasure, pipeline, scale=scale, fold=fold, force=force, block=block)
    _BLOCKS.set(_BLOCKS.get() | {block})
    try:
        yield
    finally:
        _BLOCKS.set(_BLOCKS.get() - {block})
        remove(erasure, pipeline, block=block)


def attach(
    erasure: ModelEdit, pipeline: Any, *, scale: float, fold: bool, force: bool, block: object | None = None
) -> None:
    """Attach an erasure; see `Erasure.attach`."""
    if not 0 <= scale < math.inf:
        raise UsageError(
            f"the scale is {scale:g}; expected a finite number of 0 or more: a negative one would strengthen what is erased."
        )
    watch()
    watch_class(type(pipeline))  # of whatever kind
    with LOCK, own_arithmetic():
        state = state_of(pipeline)
        known = None if state is None else state.find(erasure.digest)
        if known is not None:
            _count(known, scale)
            known.blocks |= {block} - {None}
            return
        require_idle(pipeline, "gets another erasure")
        _require_once(state, erasure)
        _require_no_other_block(state)
        model = Model(pipeline)
        if state is None:
            state = State()
            state.add_pipeline(pipeline)
        bind(pipeline, state)
        require_base(erasure, model, force)
        if fold:
            require_order(model, erasure, bool(state.mapped))
        elif erasure.reads_prompts_only:
            warn_of_unmapped(model, erasure)
        attachment = Attachment(erasure, scale, fold, force, blocks={block} - {None})
        state.add(attachment)
        try:
            bind(pipeline, state)
        except BaseException:
            _take_off(state, attachment, pipeline, subtract=None)
            raise


def remove(erasure: ModelEdit, pipeline: Any, *, subtract: bool | None = None, block: object | None = None) -> None:
    """Take an erasure off; see `Erasure.remove`."""
    with LOCK, own_arithmetic():
        state = state_of(pipeline)
        attachment = None if state is None else state.find(erasure.digest)
        if state is None or attachment is None:
            raise EffaceError(f"this erasure of {erasure.names} is not attached to the pipeline: nothing to remove.")
        if attachment.count > 1:
            attachment.count -= 1
            attachment.blocks.discard(block)
            return
        require_idle(pipeline, "loses an erasure")
        if binding_of(pipeline) is None:  # a copy that was not used yet
            with suppress(EffaceError):
                bind(pipeline, state)
        _take_off(state, attachment, pipeline, subtract)


def _require_no_other_block(state: State | None) -> None:
    """Raise EffaceError where another thread or task draws in a block of its own, whose pictures would change."""
    attachments = [] if state is None else state.attachments
    others = [a for a in attachments if a.blocks - _BLOCKS.get()]
    if others:
        names = ", ".join(attachment.erasure.names for attachment in others)
        raise EffaceError(
            f"another thread or task has the erasure of {names} attached to this pipeline for a block of its own, and would draw with "
            "this one as well: give each a pipeline object of its own over the same networks, with a scheduler of its own."
        )


def _require_once(state: State | None, erasure: ModelEdit) -> None:
    """Raise EffaceError where an erasure would act twice on a row, by a policy and without one, or other policies are there."""
    for attachment in () if state is None else state.attachments:
        known = attachment.erasure
        if known.by_policy and erasure.by_policy and known.by_policy != erasure.by_policy:
            raise EffaceError(
                "this pipeline has other policies: remove() them first, or give these a pipeline of their own."
            )
        digests = {part.digest for part in known.parts}
        if known.by_policy != erasure.by_policy and any(part.digest in digests for part in erasure.parts):
            raise EffaceError(
                f"an erasure of {names_in_both(known, erasure)} acts on every row of this pipeline, and by a policy as well: take it "
                "out of the policies, or remove it from the pipeline."
            )


def names_in_both(one: ModelEdit, other: ModelEdit) -> str:
    """The concepts of the erasures that two have in common."""
    digests = {part.digest for part in one.parts}
    return ", ".join(part.names for part in other.parts if part.digest in digests)


def _count(known: Attachment, scale: float) -> None:
    """One more attachment of the same erasure, in the way in which it is on; raises EffaceError for another scale."""
    if known.scale != scale:
        raise EffaceError(
            f"this erasure of {known.erasure.names} is already attached with scale {known.scale:g} and cannot be so with {scale:g} as "
            "well: remove it first."
        )
    known.count += 1


def _take_off(state: State, attachment: Attachment, pipeline: Any, subtract: bool | None) -> None:
    """Take an attachment off every network and every view."""
    networks = dict.fromkeys([*state.networks, *(network for _, network in networks_in(pipeline))])
    states = {state}
    if attachment.folded:
        unfold(networks, attachment, subtract=subtract)
        states |= {other for network in networks for other in vars(network).get(KEY, ())}
    for owner in states:
        owner.discard(attachment)
        for view in list(owner.pipelines):
            release(view, owner, attachment)
