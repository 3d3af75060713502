"""Single entries of weights that are trained while the rest of the same tensor stays bit for bit as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface.io.checkpoint import State


class Entries:
    """Which entries of each tensor are trained, by the gradients G that were added up; it is `Kept` by a training.

    Args:
        parameters: the trained tensors.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = parameters
        self.active = [torch.zeros_like(p, dtype=torch.bool) for p in parameters]
        """M, the entries that are trained."""
        self.frozen = [torch.zeros_like(p, dtype=torch.bool) for p in parameters]
        """Those that never are again."""
        self.sums = [torch.zeros_like(p) for p in parameters]
        """G."""
        self.before = [p.detach().clone() for p in parameters]
        """The tensors as they were at the last `begin`."""

    def add(self, gradients: Sequence[Tensor]) -> None:
        """G ← G + g."""
        for total, gradient in zip(self.sums, gradients, strict=True):
            total += gradient

    def begin(self, *, freeze: bool) -> None:
        """No entry is active, and those that were are frozen where that is asked for."""
        for p, active, frozen, before in zip(self.parameters, self.active, self.frozen, self.before, strict=True):
            frozen |= active if freeze else False
            active.zero_()
            before.copy_(p.detach())
        self._forget()

    def choose(self, density: float) -> None:
        """M is the share `density` of each tensor's entries that are not frozen, those of the largest |G|; G ← 0."""
        for active, frozen, total in zip(self.active, self.frozen, self.sums, strict=True):
            free = ~frozen
            _set(active, total.abs(), free, int(density * int(free.sum())), True)
        self._forget()

    def turn_over(self, share: float) -> None:
        """A share of each tensor's active entries, those of the least |G|, leave M for as many inactive ones of the largest; G ← 0."""
        for active, frozen, total in zip(self.active, self.frozen, self.sums, strict=True):
            outside = ~active & ~frozen
            count = min(int(share * int(active.sum())), int(outside.sum()))
            leaving = active.clone()
            _set(active, -total.abs(), leaving, count, False)
            _set(active, total.abs(), outside, count, True)
        self._forget()

    def masked(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients with zeros at the entries that are not active."""
        return [gradient * active for gradient, active in zip(gradients, self.active, strict=True)]

    def state(self) -> State:
        """All of it but the tensors themselves."""
        parts = {"active": self.active, "frozen": self.frozen, "sums": self.sums, "before": self.before}
        return {f"{name}|{i}": value for name, values in parts.items() for i, value in enumerate(values)}

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def _forget(self) -> None:
        for total in self.sums:
            total.zero_()


def _set(mask: Tensor, order: Tensor, among: Tensor, count: int, value: bool) -> None:
    """Set a mask at the `count` entries of the largest `order` among some."""
    ranked = torch.where(among, order, -torch.inf).flatten().topk(count).indices
    mask.view(-1)[ranked] = value


class EntryAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, 2014, arXiv 1412.6980) on the active entries alone: the others do not move, whatever moments they had,
    and an entry that becomes active begins with none, as a tensor of its own would."""

    def __init__(self, entries: Entries, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(entries.parameters, {"lr": lr, "betas": betas, "eps": eps})
        self.entries = entries

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step along the gradients; tensors without one stay."""
        (group,) = self.param_groups
        (one, two), lr, eps = group["betas"], group["lr"], group["eps"]
        for p, active in zip(group["params"], self.entries.active, strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state |= {name: torch.zeros_like(p) for name in ("mean", "square", "steps")}
            mean, square, steps = state["mean"], state["square"], state["steps"]
            steps.add_(1).mul_(active)
            mean.lerp_(p.grad, 1 - one).mul_(active)
            square.mul_(two).addcmul_(p.grad, p.grad, value=1 - two).mul_(active)
            update = (mean / (1 - one**steps)) / ((square / (1 - two**steps)).sqrt() + eps)
            p.copy_(torch.where(active, p - lr * update, p))
