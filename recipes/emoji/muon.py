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
            update = self._muon if "momentum" in group else self._adam
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(update(p, group), alpha=group["lr"])

    def _muon(self, p: Tensor, group: dict) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].mul_(group["momentum"]).add_(p.grad)
        matrix = p.grad.add(state["momentum"], alpha=group["momentum"]).flatten(1)
        return orthogonal(matrix).mul_(0.2 * max(matrix.shape) ** 0.5).view_as(p)

    def _adam(self, p: Tensor, group: dict) -> Tensor:
        state, (fast, slow) = self.state[p], group["betas"]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        state["mean"].lerp_(p.grad, 1 - fast)
        state["square"].lerp_(p.grad.square(), 1 - slow)
        count = float(state["step"])
        return (state["mean"] / (1 - fast**count)) / ((state["square"] / (1 - slow**count)).sqrt() + 1e-8)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """U Vᵀ of a matrix, roughly: singular values end up between 0.7 and 1.2.

    The iteration X ← a X + (b A + c A²) X with A = X Xᵀ multiplies X by polynomials of A alone, so that it is run on the
    smaller square matrix and X is multiplied once, at the end.
    """
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    eye, total = torch.eye(len(gram), dtype=gram.dtype, device=gram.device), None
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        factor = a * eye + b * gram + c * gram @ gram
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    found = total @ wide
    return found if len(matrix) <= matrix.shape[1] else found.T
