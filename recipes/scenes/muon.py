"""Muon for matrices and convolutions, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, U Vᵀ of its singular value
decomposition, found by a Newton-Schulz iteration. On the canvas's denoiser 200 of its steps lower the loss as far as some
1,500 of AdamW's; torch.optim.Muon takes matrices only, and nine tenths of these weights are convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1."""


class Muon(torch.optim.Optimizer):
    """Matrices and convolutions, flattened to (out, all else), by Muon; the rest by AdamW.

    Args:
        modules: whose parameters are trained.
        lr: of both; Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982).
        outer: ends of parameters' names that AdamW takes although they are matrices: first and last layers, embeddings.
        momentum: of Muon.
        betas: of AdamW.
        weight_decay: of both.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        lr: float,
        *,
        outer: tuple[str, ...] = (
            "conv_in.weight",
            "conv_out.weight",
            "token_embedding.weight",
            "position_embedding.weight",
        ),
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-2,
    ):
        named = [(name, p) for module in modules for name, p in module.named_parameters()]
        inner = [p for name, p in named if p.ndim >= 2 and not name.endswith(outer)]
        rest = [p for name, p in named if p.ndim < 2 or name.endswith(outer)]
        shared = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(
            [{"params": inner, "momentum": momentum} | shared, {"params": rest, "betas": betas} | shared], {}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; parameters without a gradient stay."""
        for group in self.param_groups:
            if "momentum" in group:
                self._muon(group)
            else:
                for p in group["params"]:
                    if p.grad is not None:
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                        p.sub_(self._adam(p, group), alpha=group["lr"])

    def _muon(self, group: dict) -> None:
        """Matrices of one shape are orthogonalised together: a network has hundreds of them, but few shapes."""
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                shapes.setdefault(p.flatten(1).shape, []).append(p)
        for shape, alike in shapes.items():
            for p in alike:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            gradients = [p.grad for p in alike]
            momenta = [self.state[p]["momentum"] for p in alike]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            updates = orthogonal(torch.stack([a.flatten(1) for a in ahead])).mul_(0.2 * max(shape) ** 0.5)
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            changes = [u.view_as(p) for u, p in zip(updates.unbind(), alike, strict=True)]
            torch._foreach_add_(alike, changes, alpha=-group["lr"])

    def _adam(self, p: Tensor, group: dict) -> Tensor:
        state, (fast, slow) = self.state[p], group["betas"]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        state["mean"].lerp_(p.grad, 1 - fast)
        state["square"].lerp_(p.grad.square(), 1 - slow)
        count = float(state["step"])
        return (state["mean"] / (1 - fast**count)) / ((state["square"] / (1 - slow**count)).sqrt() + 1e-8)


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """U Vᵀ of matrices (count rows columns), roughly: singular values end up between 0.7 and 1.2.

    The iteration X ← a X + (b A + c A²) X with A = X Xᵀ multiplies X by polynomials of A alone, so that it is run on the
    smaller square matrix and X is multiplied once, at the end.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = wide @ wide.mT
    eye, total = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device), None
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        factor = a * eye + b * gram + c * gram @ gram
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    result = total @ wide
    return result if matrices.shape[1] <= matrices.shape[2] else result.mT
