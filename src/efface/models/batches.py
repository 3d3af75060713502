"""How many pictures are worked on at a time: as many as free memory holds or the user allows, half as many after running out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from efface.errors import EffaceError, UsageError
from efface.io.memory import free_bytes, is_out_of_memory, release

T = TypeVar("T")

MOST = 32
"""Pictures at a time where nobody names a number and memory holds more."""
DECODED = 64 * 64
"""Cells of latents that are decoded at a time: one picture of 512 pixels."""
NUMBERS = 64
"""Numbers that a denoiser keeps at a time for each cell of a picture and each channel of its first layer; UNets and
transformers of known families keep fewer."""
SHARE = 0.8
"""Share of free memory that a batch may take."""
log = logging.getLogger("efface")


@dataclass
class Limits:
    """What is known of a denoiser's batches."""

    named: int | None = None
    """Pictures at a time that the user allows; None leaves it to free memory."""
    learned: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)
    """Pictures at a time that memory held, by what is done and the shape of one picture's latents."""


_LIMITS: WeakKeyDictionary[nn.Module, Limits] = WeakKeyDictionary()


def limits_of(denoiser: nn.Module) -> Limits:
    """The limits of a denoiser, which outlive the call that learned them."""
    return _LIMITS.setdefault(denoiser, Limits())


def limit_batch(denoiser: nn.Module, most: int | None) -> None:
    """Let at most `most` pictures be drawn at a time; None leaves it to free memory.

    Raises:
        UsageError: it is below 1.
    """
    if most is not None and most < 1:
        raise UsageError(f"batch is {most}; expected at least 1.")
    limits_of(denoiser).named = most


def pictures_at_a_time(denoiser: nn.Module, shape: tuple[int, ...], halves: int, device: torch.device) -> int:
    """How many pictures are drawn together.

    Args:
        denoiser: the network.
        shape: of one picture's latents (channels height width).
        halves: 2 where an unconditional half is drawn too.
        device: where it computes.
    """
    named = limits_of(denoiser).named
    return named or max(1, min(MOST, int(SHARE * free_bytes(device) / picture_bytes(denoiser, shape, halves))))


def picture_bytes(denoiser: nn.Module, shape: tuple[int, ...], halves: int) -> int:
    """About the most bytes that one picture (channels height width) takes in a denoiser, weights left out."""
    width, size = next(((p.shape[0], p.element_size()) for p in denoiser.parameters() if p.ndim > 1), (1, 4))
    return NUMBERS * width * shape[-2] * shape[-1] * halves * size


def in_batches(
    denoiser: nn.Module, what: str, count: int, shape: tuple[int, ...], size: int, work: Callable[[slice], T]
) -> list[T]:
    """Results of work on consecutive pieces of `count` pictures; pieces are halved while memory runs out.

    Args:
        denoiser: for which the number that memory held is remembered.
        what: is done with the pictures, in a participle such as "drawing".
        count: of pictures.
        shape: of one picture's latents (channels height width).
        size: pictures of a piece.
        work: does a piece.

    Raises:
        EffaceError: memory does not hold one picture.
    """
    learned = limits_of(denoiser).learned
    size = min(size, learned.get((what, shape), size))
    done: list[T] = []
    start = 0
    halved = False
    while start < count:
        try:
            done.append(work(slice(start, start + size)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if min(size, count - start) == 1:
                raise EffaceError(
                    f"memory ran out while {what} one picture of {shape[-2]} x {shape[-1]} cells: take a smaller --side, "
                    "--dtype float16, or another --offload."
                ) from error
        else:
            start += size
            continue
        # Outside the handler, so that the failed piece's tensors are free.
        release()
        size = min(size, count - start) // 2
        halved = True
    if halved:
        learned[what, shape] = size
        log.warning("memory ran out: %s %d at a time from now on (--batch says so beforehand)", what, size)
    return done
