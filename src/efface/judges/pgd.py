"""Projected gradient descent on pictures (Madry et al., ICLR 2018, arXiv 1706.06083), through a smoothed judge where there is one
(Salman et al., NeurIPS 2019, arXiv 1906.04584): what a judge must stand before its verdicts are believed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Callable[[Tensor], Tensor]
"""Pixels in 0 to 1 (batch 3 height width) to logits of classes (batch classes), with gradients."""


def pgd(
    logits: Logits,
    pixels: Tensor,
    labels: Tensor,
    *,
    radius: float = 0.5,
    steps: int = 40,
    sigma: float = 0.0,
    draws: int = 1,
    seed: int = 0,
) -> Tensor:
    """Pixels within an ℓ2 ball that a classifier calls something else than their labels (batch 3 height width).

    Every step follows the gradient of the cross-entropy, averaged over noisy copies, for 2.5 radius / steps.

    Args:
        logits: the classifier; with noise, the denoiser before it.
        pixels: 0 to 1 (batch 3 height width).
        labels: the classes that are to be left (batch,).
        radius: of the ball, over pixels in 0 to 1.
        steps: of the descent.
        sigma: standard deviation of the noise of a smoothed judge; 0 attacks the plain one.
        draws: noisy copies a step, whose gradients are averaged.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    moved = torch.zeros_like(pixels)
    for _ in range(steps):
        gradient = torch.zeros_like(pixels)
        for _ in range(draws):
            noise = sigma * torch.randn(pixels.shape, generator=generator).to(pixels) if sigma else 0.0
            at = moved.clone().requires_grad_()
            loss = F.cross_entropy(logits(pixels + at + noise), labels, reduction="sum")
            gradient += torch.autograd.grad(loss, at)[0] / draws
        moved = moved + 2.5 * radius / steps * gradient / norms(gradient).clamp(min=1e-12)
        moved = moved * (radius / norms(moved).clamp(min=radius))
        moved = (pixels + moved).clamp(0, 1) - pixels
    return pixels + moved


def norms(values: Tensor) -> Tensor:
    """ℓ2 norm of every picture, shaped to divide it (batch 1 1 1)."""
    return values.flatten(1).norm(dim=1)[:, None, None, None]
