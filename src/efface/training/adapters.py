"""Adapters that are trained behind the cross-attention of a denoiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures.adapter import Bottleneck
from efface.erasures.checks import ADAPTER_PARTS
from efface.training.maps import CrossAttention, resized


class Adapters:
    """A holder of one bottleneck behind every cross-attention; U and u begin at zero, so that they change nothing at first.

    Args:
        attentions: where they are.
        inner: width of a bottleneck.
        seed: of D and d, which are uniform as those of a new linear layer.
    """

    def __init__(self, attentions: Sequence[CrossAttention], inner: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.attentions = list(attentions)
        self.parameters: list[Tensor] = []
        self.changes: list[Tensor] = []
        """What each added in the last forward pass with the trained values (batch pixels width)."""
        for _, module in self.attentions:
            layer = module.to_out[0]
            width, device = layer.out_features, layer.weight.device
            bound = width**-0.5
            down = torch.empty(inner, width).uniform_(-bound, bound, generator=generator)
            bias = torch.empty(inner).uniform_(-bound, bound, generator=generator)
            parts = [down, bias, torch.zeros(width, inner), torch.zeros(width)]
            self.parameters += [part.to(device).requires_grad_() for part in parts]

    @contextmanager
    def active(self, values: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Context in which the bottlenecks act behind their layers."""
        parts = list(values or self.parameters)
        if values is None:
            self.changes = []
        with ExitStack() as stack:
            for number, (_, module) in enumerate(self.attentions):
                own = Bottleneck(*parts[4 * number : 4 * number + 4])
                stack.callback(module.register_forward_hook(self._beside(own, values is None)).remove)
            yield

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The bottlenecks, as tensors of an `Adapter`."""
        parts = values or self.parameters
        return {name: part.detach().clone() for name, part in zip(self.names, parts, strict=True)}

    @property
    def names(self) -> list[str]:
        """Names of the bottlenecks' parts, as `LAYER|PART`."""
        return [f"{name}|{part}" for name, _ in self.attentions for part in ADAPTER_PARTS]

    def load(self, tensors: Sequence[Tensor]) -> None:
        """These parts."""
        for value, part in zip(self.parameters, tensors, strict=True):
            value.data.copy_(part)

    def _beside(self, own: Bottleneck, kept: bool) -> Any:
        """A hook that adds what a bottleneck gives, and keeps it."""

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            change = own.of(output)
            if kept and torch.is_grad_enabled():  # not while latents are rolled
                self.changes.append(change)
            return output + change.to(output.dtype)

        return hook


def outside(changes: Sequence[Tensor], shown: Tensor) -> Tensor:
    """R: what is added where a picture does not show the concept, the mean over layers, pixels outside and channels of its
    square; 0 where all of it is shown.

    Args:
        changes: of each layer (batch pixels width).
        shown: where it is shown (batch 1 rows columns).
    """
    terms = []
    for change in changes:
        away = ~resized(shown, change.shape[1])
        terms.append((change.square().mean(-1) * away).sum() / away.sum().clamp(min=1))
    return torch.stack(terms).mean()
