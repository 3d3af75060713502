"""What an edit makes of a picture's features, and which pictures it acts on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efface.erasures.latent_edit import LatentEdit
from efface.erasures.text_edit import active_latents, change, replacement
from efface.errors import EffaceError
from efface.models.precision import without_autocast
from efface.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class ImageGate:
    """Which pictures a site's edit acts on; all others keep every bit."""

    directions: Tensor
    """One for each concept, along which the mean of a picture's features is read (concepts width)."""
    thresholds: Tensor
    """What one of them must be above (concepts,)."""

    def opens(self, states: Tensor) -> Tensor:
        """Whether each picture is edited (batch,), of its features (batch tokens width) in float32."""
        directions, thresholds = self.directions.to(states), self.thresholds.to(states)
        return (states.mean(1) @ directions.T > thresholds).any(1)


class ImageChange:
    """What an edit makes of a picture's features (batch tokens width)."""

    def __init__(
        self,
        name: str,
        edit: LatentEdit,
        gate: ImageGate | None,
        scale: float,
        sae: SparseAutoencoder | None,
        published: bool,
    ):
        self.name = name
        self.edit = edit
        self.gate = gate
        self.scale = scale
        self.sae = sae
        self.published = published

    def __call__(self, states: Tensor) -> Tensor | None:
        """The features with the edit of the active latents added; None where nothing is active."""
        if states.shape[-1] != len(self.edit.centre):
            raise EffaceError(
                f"{self.name} gives {states.shape[-1]} channels where the erasure's autoencoder reads {len(self.edit.centre)}."
            )
        if self.edit.gate.device != states.device:
            self.edit = self.edit.to(states)
            if self.sae is not None:
                self.sae.to(states.device)
        wide = states.float()
        with without_autocast(states.device):
            if self.published and self.sae is not None:
                everywhere = wide.new_ones(wide.shape[:2])
                return states + (self.scale * replacement(self.sae, self.edit, wide, everywhere)).to(states.dtype)
            z = active_latents(self.edit, wide, self.sae)
            z = z * (z > self.edit.gate[0])
            where = z.any(2, keepdim=True)
            if self.gate is not None:
                where = where & self.gate.opens(wide)[:, None, None]
            if not where.any():
                return None
            delta = self.scale * change(self.edit, z)
        return torch.where(where, states + delta.to(states.dtype), states)
