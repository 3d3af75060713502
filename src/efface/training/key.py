"""A key: rows of text states that are learnt beside the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from efface.io.checkpoint import State, optimizer_state, restore_optimizer
from efface.models.sampling import generator


class Key:
    """Rows p (rows width) and the Adam that moves them; it is `Kept` by a training.

    Args:
        like: a text state (width,) of whose length the rows are at first.
        rows: how many there are.
        lr: learning rate, in units of the size of the state's entries.
        seed: of the first rows.
    """

    def __init__(self, like: Tensor, rows: int, lr: float, seed: int):
        noise = torch.randn(rows, len(like), generator=generator("key", seed))
        length = like.detach().float().norm()
        self.rows = (noise / noise.norm(dim=1, keepdim=True)).to(length) * length
        self.rows.requires_grad_()
        size = float(length) / len(like) ** 0.5
        self.optimiser = torch.optim.Adam([self.rows], lr=lr * size)

    def descend(self, gradient: Tensor) -> None:
        """One step along a gradient."""
        self.rows.grad = gradient
        self.optimiser.step()
        self.rows.grad = None

    def state(self) -> State:
        """Rows and moments."""
        return optimizer_state(self.optimiser)

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        restore_optimizer(self.optimiser, state)
