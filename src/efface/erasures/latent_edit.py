"""What happens to chosen latents at one site."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PARTS = ("encoder", "bias", "centre", "decoder", "latents", "levels", "gate", "gain", "shift")


class Edit(NamedTuple):
    """What happens to the chosen latents of one site; at level t an active latent z becomes gain·z + shift."""

    encoder: Tensor
    """Encoder rows of the chosen latents (chosen width)."""
    bias: Tensor
    """Their biases (chosen,)."""
    centre: Tensor
    """The autoencoder's b_dec (width,)."""
    decoder: Tensor
    """Decoder rows of the chosen latents (chosen width), or those that lead to an anchor (`efface.steering.anchor`)."""
    latents: Tensor
    """Which latents of the autoencoder they are (chosen,)."""
    levels: Tensor
    """Timesteps (levels,); a level between them takes the nearest."""
    gate: Tensor
    """Activation above which a latent is edited (levels chosen); infinite where it is not chosen at that level."""
    gain: Tensor
    """(levels chosen)"""
    shift: Tensor
    """(levels chosen)"""

    def to(self, like: Tensor) -> Edit:
        """The same on another device."""
        return Edit(*(part.to(like.device) for part in self))

    def at(self, level: Tensor) -> Tensor:
        """Index of the nearest known level of each timestep (batch,)."""
        return (self.levels - level.float().reshape(-1, 1)).abs().argmin(1)

    def delta(self, states: Tensor, level: Tensor, scale: float, member: Tensor | None = None) -> Tensor:
        """What is added to the states: Σ over active chosen latents of (gain·z + shift − z) W_dec (batch tokens width).

        Gradients flow through z; which latents are active is taken as constant.

        Args:
            states: (batch tokens width) in float32.
            level: the denoiser's timestep (batch,) or one for all.
            scale: 0 leaves all as it is, 1 is the edit.
            member: which chosen latents are in the top k at each position (batch tokens chosen); None in fast mode.
        """
        z = torch.relu((states - self.centre) @ self.encoder.T + self.bias)
        at = self.at(level)
        active = z.detach() > self.gate[at][:, None]
        if member is not None:
            active = active & member
        change = (self.gain[at][:, None] - 1) * z + self.shift[at][:, None]
        return torch.where(active, scale * change, 0.0) @ self.decoder


HUGE = torch.finfo(torch.float32).max
"""Written for an infinite gate."""


def by_site(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Site name -> part -> tensor."""
    sites: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        site, _, part = key.rpartition("|")
        sites.setdefault(site, {})[part] = tensor
    return sites
