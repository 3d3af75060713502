"""Trainable parameters that act only while they are active: low-rank factors on hooks, or copies of all weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface.errors import EffaceError

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Endings of the names of attention layers that get factors, as is usual for LoRA."""


class LoRA:
    """LoRA (Hu et al., 2021, arXiv 2106.09685) without touching a module: every projection's output y becomes y + B A x.

    Args:
        denoiser: the network.
        rank: rank of the factors; A is random, B begins at zero, so that at first nothing changes.
        seed: seed of A.

    Raises:
        EffaceError: the network has no attention projections.
    """

    def __init__(self, denoiser: nn.Module, rank: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.layers: list[Any] = [m for name, m in denoiser.named_modules() if name.endswith(PROJECTIONS)]
        if not self.layers:
            raise EffaceError("the denoiser has no attention projections to put low-rank factors on.")
        self.factors: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            weight = getattr(layer, "base_layer", layer).weight
            down = torch.randn(rank, weight.shape[1], generator=generator) / rank
            up = torch.zeros(weight.shape[0], rank)
            self.factors.append((down.to(weight.device), up.to(weight.device)))
        self.parameters = [factor.requires_grad_() for pair in self.factors for factor in pair]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Context in which the factors act on the projections."""
        handles = []
        for layer, (down, up) in zip(self.layers, self.factors, strict=True):

            def hook(module: Any, args: Any, output: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
                return output + F.linear(F.linear(args[0].to(down), down), up).to(output)

            handles.append(layer.register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class FullWeights:
    """All weights of a network, trained on copies; create it while the erasures to be fine-tuned are attached."""

    def __init__(self, denoiser: nn.Module):
        self.denoiser = denoiser
        self.parameters = [p.detach().clone().requires_grad_() for p in denoiser.parameters()]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Context in which the network has the trained values; its own are restored bit for bit."""
        own = list(self.denoiser.parameters())
        values = [p.data for p in own]
        try:
            for p, trained in zip(own, self.parameters, strict=True):
                p.data = trained.data
                p.requires_grad = True
                p.grad = None
            with _move_gradients(own, self.parameters):
                yield
        finally:
            for p, value in zip(own, values, strict=True):
                p.data = value
                p.requires_grad = False
                p.grad = None


@contextmanager
def _move_gradients(own: list[nn.Parameter], trained: list[Tensor]) -> Iterator[None]:
    """Context in which gradients of the network's weights are moved to the copies."""
    handles = []
    for p, copy in zip(own, trained, strict=True):

        def hook(parameter: Tensor, copy: Tensor = copy) -> None:
            copy.grad = parameter.grad
            parameter.grad = None

        handles.append(p.register_post_accumulate_grad_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
