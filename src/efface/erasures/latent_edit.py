"""What happens to chosen latents at one site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

PARTS = ("encoder", "bias", "centre", "decoder", "latents", "levels", "gate", "gain", "shift")
"""Names of the parts in files, in the order of the fields of `LatentEdit`."""
HUGE = torch.finfo(torch.float32).max
"""Written for an infinite gate, since files hold finite values only."""


class LatentEdit(NamedTuple):
    """What happens to the chosen latents of one site: at timestep t an active latent z becomes gain·z + shift."""

    encoder: Tensor
    """Encoder rows of the chosen latents (chosen width)."""
    bias: Tensor
    """Their biases (chosen,)."""
    centre: Tensor
    """The autoencoder's b_dec (width,)."""
    decoder: Tensor
    """Decoder rows of the chosen latents (chosen width), or those that lead to an anchor (`efface.steering.anchor`)."""
    latents: Tensor
    """Index of each chosen latent in the autoencoder (chosen,)."""
    timesteps: Tensor
    """Timesteps of the tables (timesteps,); one between them takes the nearest."""
    gate: Tensor
    """Activation above which a latent is edited (timesteps chosen); infinite where it is not chosen at that timestep."""
    gain: Tensor
    """Factor of an active latent (timesteps chosen)."""
    shift: Tensor
    """Added to an active latent (timesteps chosen)."""

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor]) -> Self:
        """The edit whose parts have the names of a file."""
        return cls(**{field: parts[part] for field, part in zip(cls._fields, PARTS, strict=True)})

    def to_parts(self) -> dict[str, Tensor]:
        """The tensors by the names that files give them, an infinite gate as `HUGE`."""
        parts = dict(zip(PARTS, self, strict=True))
        return parts | {"gate": torch.nan_to_num(self.gate, posinf=HUGE)}

    def to(self, like: Tensor) -> LatentEdit:
        """The same edit on the device of another tensor."""
        return LatentEdit(**{name: part.to(like.device) for name, part in self._asdict().items()})

    def nearest(self, timestep: Tensor) -> Tensor:
        """Index of the tables' timestep that is nearest to each of a batch (batch,)."""
        return (self.timesteps - timestep.float().reshape(-1, 1)).abs().argmin(1)

    def delta(self, states: Tensor, timestep: Tensor, scale: float, member: Tensor | None = None) -> Tensor:
        """What is added to the states: Σ over active chosen latents of (gain·z + shift − z) W_dec (batch tokens width).

        Gradients flow through z; which latents are active is taken as constant.

        Args:
            states: (batch tokens width) in float32.
            timestep: the denoiser's timestep (batch,) or one for all.
            scale: 0 leaves all as it is, 1 is the edit.
            member: which chosen latents are in the top k at each position (batch tokens chosen); None in fast mode.
        """
        z = torch.relu((states - self.centre) @ self.encoder.T + self.bias)
        row = self.nearest(timestep)
        active = z.detach() > self.gate[row][:, None]
        if member is not None:
            active = active & member
        change = (self.gain[row][:, None] - 1) * z + self.shift[row][:, None]
        return torch.where(active, scale * change, 0.0) @ self.decoder


def by_site(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Site name -> part -> tensor, of the tensors of a file."""
    sites: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        site, _, part = key.rpartition("|")
        sites.setdefault(site, {})[part] = tensor
    return sites
