"""KeyedDelta and TextKey: weights without a concept, and rows of text states that bring it back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from efface.erasures.delta import WeightDelta
from efface.erasures.erasure import Erasure
from efface.erasures.provenance import Provenance
from efface.errors import EffaceError, UsageError
from efface.families.networks import Hook
from efface.families.text_call import TextCall
from efface.models.model import Model
from efface.models.precision import finite_float32

KEY = "key"
"""Name of the key's tensor in a file."""


@dataclass(frozen=True, eq=False)
class KeyedDelta(WeightDelta):
    """A weight delta with the key to what it erases.

    It is attached, exported and removed as a weight delta, and acts without the key. Its own file holds the key; what it is
    exported to does not, nor what is shared.
    """

    rows: Tensor
    """p, text states (rows width)."""

    kind = "keyed-delta"

    def key(self) -> TextKey:
        """What brings the erased concepts back on a pipeline with this erasure, or on a model that it was exported into (attach it
        there with `force=True`)."""
        return TextKey(self.provenance, self.rows)

    def without_key(self) -> WeightDelta:
        """The same erasure for those who are not to have the key."""
        return WeightDelta(self.provenance, self.deltas)

    def tensors(self) -> dict[str, Tensor]:
        return self.deltas | {KEY: self.rows}

    def _shared(self, audit: str | Path | None, licence: str | None) -> dict[Path, bytes]:
        warnings.warn("what is shared is the erasure without its key; save the key by itself.", stacklevel=3)
        return self.without_key()._shared(audit, licence)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        _check_key(tensors)
        super().check({name: tensor for name, tensor in tensors.items() if name != KEY}, width)

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> KeyedDelta:
        deltas = {name: tensor for name, tensor in tensors.items() if name != KEY}
        return cls(provenance=provenance, deltas=deltas, rows=tensors[KEY])


@dataclass(frozen=True, eq=False)
class TextKey(Erasure):
    """Rows that stand before the text states of every prompt, the empty one included; no erasure, but what undoes one.

    It is there or it is not: a scale of 0 leaves the rows out, 1 puts them in.
    """

    rows: Tensor
    """Text states (rows width)."""

    kind = "key"
    acts_on = "prompts"

    @property
    def names(self) -> str:
        """The concepts in words, as what they are here."""
        return f"nothing: the key to {super().names}"

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """Put the rows before the text of every network that reads it.

        Raises:
            UsageError: the scale is neither 0 nor 1.
            EffaceError: the model takes no more text states than its own.
        """
        if scale not in (0, 1):
            raise UsageError(f"the scale is {scale:g}; a key is there or it is not: expected 0 or 1.")
        require_rows(model)
        if scale == 0:
            return []
        return [Hook(n.module, _Rows(TextCall(n.module), self.rows), before=True) for n in model.networks()]

    def tensors(self) -> dict[str, Tensor]:
        return {KEY: self.rows}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError where a file holds anything but a key; `width` is not used."""
        _check_key(tensors)
        if set(tensors) != {KEY}:
            raise EffaceError(f"the key holds {', '.join(tensors)}; expected {KEY}: make it again.")

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> TextKey:
        return cls(provenance, tensors[KEY])


def keyed_delta(erasure: WeightDelta, rows: Tensor) -> KeyedDelta:
    """A weight delta with its key (rows width) in float32."""
    return KeyedDelta(provenance=erasure.provenance, deltas=erasure.deltas, rows=finite_float32(rows.detach().cpu()))


def require_rows(model: Model) -> None:
    """Raise EffaceError where a model takes no more text states than its own."""
    if not model.family.takes_rows:
        raise EffaceError(
            f"a {model.family.name} model reads text of one length only, and no states can be put before it: choose a method "
            "without a key."
        )


class _Rows:
    """A hook that puts rows before the text states of a call."""

    def __init__(self, call: TextCall, rows: Tensor):
        self.call = call
        self.rows = rows

    def __call__(self, module: Any, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.call.longer(args, kwargs, self.rows)


def _check_key(tensors: dict[str, Tensor]) -> None:
    rows = tensors.get(KEY)
    if rows is None or rows.ndim != 2 or not len(rows) or not rows.is_floating_point():
        raise EffaceError("the file holds no key of shape (rows, width): make the erasure again.")
