"""Some rows of what a module is given or gives, taken out and put back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from efface.errors import EffaceError


class Rows:
    """Some rows of a batch, in rising order."""

    def __init__(self, numbers: Sequence[int]):
        self.numbers = tuple(numbers)
        self._index: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """Their numbers (rows,) on a device."""
        if device not in self._index:
            self._index[device] = torch.tensor(self.numbers, device=device)
        return self._index[device]


class Slice:
    """Some rows of every tensor of a nested value whose first axis is the batch."""

    def __init__(self, value: Any, rows: Rows, count: int):
        """Take them out.

        Args:
            value: tensors, in tuples, lists, dictionaries and classes of output.
            rows: which.
            count: how many the batch has.
        """
        self.rows = rows
        self.leaves, self.spec = tree_flatten(value)
        self.taken = [leaf[rows.on(leaf.device)] if _is_batch(leaf, count) else leaf for leaf in self.leaves]

    @property
    def value(self) -> Any:
        """The value with those rows alone."""
        return tree_unflatten(self.taken, self.spec)

    def put_back(self, changed: Any, where: str) -> Any:
        """The whole value, its rows replaced by those of `changed`; every other row is bit for bit as it was.

        Raises:
            EffaceError: more changed than those rows; `where` is named.
        """
        new, spec = tree_flatten(changed)
        if spec != self.spec:
            raise EffaceError(f"an erasure changes what the {where} is given as a whole: leave it out of the policies.")
        return tree_unflatten(
            [self._merged(*parts, where) for parts in zip(self.leaves, self.taken, new, strict=True)], self.spec
        )

    def _merged(self, leaf: Any, taken: Any, new: Any, where: str) -> Any:
        if new is taken:
            return leaf
        if taken is leaf or not isinstance(new, Tensor) or new.shape != taken.shape:
            raise EffaceError(
                f"a {where} computes something else than one row for each picture of the batch, so that nobody can say which is of "
                "which policy: leave the erasure out of the policies, or choose one for all rows."
            )
        return leaf.index_copy(0, self.rows.on(leaf.device), new.to(leaf.dtype))


def _is_batch(leaf: Any, count: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count
