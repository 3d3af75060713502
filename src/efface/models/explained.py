"""Errors of networks whose weights are not plain, in one sentence: what a stranger's kernel says does not name the weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from efface.errors import EffaceError
from efface.families.storage import REMEDY
from efface.families.text import Text
from efface.models.tensors import tensors_of


@contextmanager
def explained(components: Callable[[], Mapping[str, nn.Module]]) -> Iterator[None]:
    """Context in which networks compute; raises EffaceError where they cannot and a weight of theirs is not plain."""
    try:
        yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        kept = None if isinstance(error, torch.OutOfMemoryError) else _first_that_is_not_plain(components())
        if kept is None:
            raise
        said = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise EffaceError(f"{kept}, and the model cannot compute with it ({said}): {REMEDY}.") from error


def with_values(text: Text, components: Callable[[], Mapping[str, nn.Module]]) -> Text:
    """What text encoders computed; raises EffaceError where it has no values, as their weights have none."""
    if text.states.is_meta:
        kept = _first_that_is_not_plain(components()) or "the text encoder is on the meta device"
        raise EffaceError(f"{kept}, and the model cannot compute with it: {REMEDY}.")
    return text


def _first_that_is_not_plain(components: Mapping[str, nn.Module]) -> str | None:
    """The first weight of some networks that is not plain, and how it is kept; None where all are."""
    kept = ((tensor.name, tensor.storage) for tensor in tensors_of(components))
    return next((f"{name} {storage.words}" for name, storage in kept if not storage.is_plain), None)
