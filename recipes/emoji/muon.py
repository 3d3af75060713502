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
                self._adam(group)

    def _muon(self, group: dict) -> None:
        """Matrices are orthogonalised together, as `orthogonal` can: a network has hundreds of them, but few shapes."""
        trained = [p for p in group["params"] if p.grad is not None]
        for p in trained:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        if not trained:
            return
        gradients, momenta = [p.grad for p in trained], [self.state[p]["momentum"] for p in trained]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        updates = orthogonal([a.flatten(1) for a in ahead])
        torch._foreach_mul_(updates, [0.2 * max(u.shape) ** 0.5 for u in updates])
        _descend(trained, [u.view_as(p) for u, p in zip(updates, trained, strict=True)], group)

    def _adam(self, group: dict) -> None:
        """All parameters at once: there are hundreds of small ones, and each has had as many steps as the others."""
        trained, (fast, slow) = [p for p in group["params"] if p.grad is not None], group["betas"]
        for p in trained:
            if not self.state[p]:
                start = torch.zeros((), device=p.device)
                self.state[p].update(step=start, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        if not trained:
            return
        gradients = [p.grad for p in trained]
        counts, means, squares = ([self.state[p][name] for p in trained] for name in ("step", "mean", "square"))
        torch._foreach_add_(counts, 1)
        torch._foreach_lerp_(means, gradients, 1 - fast)
        torch._foreach_mul_(squares, slow)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - slow)
        sizes = torch._foreach_div(squares, 1 - slow ** counts[0])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, 1e-8)
        _descend(trained, torch._foreach_div(torch._foreach_div(means, sizes), 1 - fast ** counts[0]), group)


def _descend(trained: list[Tensor], updates: list[Tensor], group: dict) -> None:
    """Decay the weights and subtract the updates, which are spoilt; the learning rate may be a tensor, so that a captured step
    reads today's."""
    torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_mul_(updates, group["lr"])
    torch._foreach_sub_(trained, updates)


def orthogonal(matrices: list[Tensor], rounds: int = 5) -> list[Tensor]:
    """U Vᵀ of each matrix (rows columns), roughly: singular values end up between 0.7 and 1.2.

    The iteration X ← a X + (b A + c A²) X with A = X Xᵀ multiplies X by polynomials of A alone, so that it is run on the
    smaller square matrix and X is multiplied once, at the end. Matrices of one shape share every product, and those whose
    smaller sides are equal share the iteration.
    """
    shapes: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(index)
    wide: dict[torch.Size, Tensor] = {}
    for shape, alike in shapes.items():
        stacked = torch.stack([matrices[i] for i in alike])
        stacked = stacked if shape[0] <= shape[1] else stacked.mT
        wide[shape] = stacked / (stacked.norm(dim=(1, 2), keepdim=True) + 1e-7)
    results: list[Tensor] = list(matrices)
    for side in sorted({min(shape) for shape in shapes}):
        level = [shape for shape in shapes if min(shape) == side]
        totals = polynomial(torch.cat([wide[shape] @ wide[shape].mT for shape in level]), rounds)
        for shape, total in zip(level, totals.split([len(shapes[shape]) for shape in level]), strict=True):
            made = total @ wide[shape]
            made = made if shape[0] <= shape[1] else made.mT
            for index, matrix in zip(shapes[shape], made.contiguous().unbind(), strict=True):
                results[index] = matrix
    return results


def polynomial(gram: Tensor, rounds: int) -> Tensor:
    """What the iteration multiplies X by, of the matrices A = X Xᵀ (count side side)."""
    eye, total = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device), None
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        factor = a * eye + b * gram + c * gram @ gram
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    return total
