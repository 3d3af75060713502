"""Which policy every row of a batch follows, while a pipeline with policies works."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from efface.errors import EffaceError, UsageError
from efface.models.caller import has_halves

PICTURES = ("num_images_per_prompt", "num_videos_per_prompt")
"""What pipelines call the number of pictures of a prompt."""
NOBODY = ""
"""Owner of what is encoded for no row."""
Choice = str | None | tuple[str | None, ...]
"""A policy for all rows, or one for each prompt; None is no erasure."""


@dataclass(eq=False)
class Batch:
    """The policies of the rows that are drawn now."""

    owner: str
    """Digest of the policies that the names are of."""
    names: Choice
    pictures: int = 1
    """Of each prompt; they stand beside each other in a batch."""
    counted: bool = False
    """Whether the prompts of the call were counted and are as many as the names."""
    part: tuple[tuple[int, ...], int] | None = None
    """Which rows of how many these are, where they were taken out of a call."""
    doors: dict[object, Any] = field(default_factory=dict)
    """What the hooks of a network keep of its current call."""

    def of_rows(self, count: int, *, prompts: bool) -> tuple[str | None, ...]:
        """The policy of each of the rows of a call, in which each half of guidance holds all of them one after the other.

        Args:
            count: how many there are.
            prompts: whether a row is a prompt (text encoders) or a picture (denoisers).

        Raises:
            EffaceError: it cannot be told which row is of which prompt.
        """
        if not isinstance(self.names, tuple):
            return (self.names,) * count
        cycle = self.names if prompts else tuple(name for name in self.names for _ in range(self.pictures))
        if self.counted:
            fits = count % len(cycle) == 0
        else:  # by nobody's call of a pipeline: as many rows as are said, in each half
            fits = count == len(cycle) or (has_halves() is True and not prompts and count == 2 * len(cycle))
        if not fits:
            raise EffaceError(
                f"a network is given {count} rows where {len(cycle)} have a policy, so that nobody can say which row follows which: "
                "call the pipeline itself, or choose one policy for all rows."
            )
        return cycle * (count // len(cycle))


_BATCH: ContextVar[Batch | None] = ContextVar("batch", default=None)


@contextmanager
def within(batch: Batch) -> Iterator[None]:
    """Context in which the rows of a batch are drawn, by this thread or task."""
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)


def without_policy() -> AbstractContextManager[None]:
    """Context in which texts are encoded that are nobody's prompt."""
    return within(Batch(owner=NOBODY, names=None, counted=True))


@contextmanager
def of_rows(rows: slice, total: int) -> Iterator[None]:
    """Context of another call of a denoiser, for some of the rows of the current one, which has `total`."""
    batch = _BATCH.get()
    if batch is None:
        yield
        return
    names = batch.of_rows(total, prompts=False)[rows] if isinstance(batch.names, tuple) else batch.names
    with within(Batch(owner=batch.owner, names=names, counted=True)):
        yield


def of_pictures(values: tuple[str, ...], *, halves: bool) -> tuple[str, ...]:
    """Of one value for each prompt of a call, those of the pictures that were taken out of it; all where none were.

    Args:
        values: of the call; a single one is for all.
        halves: whether its rows are an unconditional and a conditional half.
    """
    batch = _BATCH.get()
    if batch is None or batch.part is None or len(values) == 1:
        return values
    rows, total = batch.part
    pictures = total // (1 + halves)
    return tuple(values[row * len(values) // pictures] for row in rows if row < pictures)


def batch_of(owner: str, who: str) -> Batch:
    """The batch that is drawn now under the policies of a digest.

    Raises:
        EffaceError: nobody chose policies for it; `who` is named.
    """
    batch = _BATCH.get()
    if batch is None or batch.owner not in (owner, NOBODY):
        raise EffaceError(
            f"policies are attached to this {who}, and the call says none: call `policies(..., policy=[...])` with a name, or None "
            "for no erasure, for each prompt, or draw within `policies.select(...)`."
        )
    return batch


@contextmanager
def in_call(
    pipeline: Any, owner: str | None, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """Context of one call of a pipeline, in which its prompts are counted.

    Args:
        pipeline: that is called.
        owner: digest of the policies attached to it; None where there are none.
        call: its class's own call.
        args: of the call.
        kwargs: of the call.

    Raises:
        EffaceError: policies are attached and none were chosen.
        UsageError: there are not as many policies as prompts.
    """
    if owner is None:
        yield
        return
    chosen = batch_of(owner, type(pipeline).__name__)
    if not isinstance(chosen.names, tuple):
        with within(Batch(owner=owner, names=chosen.names, counted=True)):
            yield
        return
    try:
        given = inspect.signature(call).bind_partial(pipeline, *args, **kwargs).arguments
    except TypeError:  # which the call itself says better
        given = dict(kwargs)
    given |= given.get("kwargs", {})
    prompts = _prompts(given, type(pipeline).__name__)
    if prompts != len(chosen.names):
        raise UsageError(
            f"{len(chosen.names)} policies were given for {prompts} prompt{'s' * (prompts != 1)}: give one for each prompt, or one "
            "name for all."
        )
    pictures = next((int(given[name]) for name in PICTURES if given.get(name)), 1)
    with within(Batch(owner=owner, names=chosen.names, pictures=pictures, counted=True)):
        yield


def require_none_chosen(pipeline: Any) -> None:
    """Raise EffaceError where policies were chosen for a pipeline that has none."""
    batch = _BATCH.get()
    if batch is not None and not batch.counted:
        raise EffaceError(
            f"policies were chosen, and this {type(pipeline).__name__} has none attached, so that nothing would be erased: call the "
            "pipeline that has them, or this one outside of the block."
        )


def _prompts(given: Mapping[str, Any], who: str) -> int:
    """How many prompts a call is given, as text or as states."""
    prompt, states = given.get("prompt"), given.get("prompt_embeds")
    if isinstance(prompt, str):
        return 1
    given_rows = states if prompt is None else prompt
    if given_rows is None:
        raise UsageError(
            f"the {who} is given neither prompt nor prompt_embeds, so that its rows cannot be counted: choose one policy for all."
        )
    return len(given_rows)
