"""What the searches by gradient share: the loss, and optimisers that can be put down and taken up again."""

from __future__ import annotations

from torch import Tensor


def through(values: Tensor, soft: Tensor) -> Tensor:
    """`values`, whose gradient goes to `soft` (straight through)."""
    return values.detach() - soft.detach() + soft
