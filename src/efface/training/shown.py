"""Noised pictures that show a concept, each beside one that shows its anchor in the same place: how much of the way from the
anchor's to the concept's the model sees, for `unsee`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from efface.families.schedule import Mixture, mixture
from efface.families.text import concatenate
from efface.models.model import Model, Text
from efface.training.images import NoisedBatch
from efface.training.latents import Noisy
from efface.training.loop import Step
from efface.training.targets import apart

CLEANEST = 0.05
"""Share of the schedule in which pictures are nearly done, and are left as they are."""
NEAREST = 1e-3
"""Mean squared difference of latents of a concept's picture and its anchor's, at least: nearer ones are one picture."""
BEYOND = 0.5
"""ρ: how far past the anchor's picture guidance leads, in ways from it to the concept's."""


class Shown(NamedTuple):
    """A batch of them."""

    z: Noisy
    """Noised mixtures of both."""
    x_c: Tensor
    """Clean latents of the concept (batch channels height width)."""
    x_a: Tensor
    """Those of the anchor."""
    at: Mixture
    """α and σ."""

    @classmethod
    def of(cls, model: Model, x: NoisedBatch, x_a: Tensor, random: torch.Generator) -> Shown:
        """Mixtures of a batch's pictures with others."""
        kappa = 1 - torch.rand(len(x_a), 1, 1, 1, generator=random).to(x_a) / 2
        t = x.timesteps.clamp(min=int(CLEANEST * model.num_train_timesteps))
        z = model.to_noisy(kappa * x.clean + (1 - kappa) * x_a, x.noise, t)
        return cls(Noisy(z, t), x.clean, x_a, mixture(model.pipeline.scheduler, t, z))

    def apart(self, step: Step, text: Text, clean: Tensor) -> Tensor:
        """w |ε(z, text) − the noise that leaves `clean`|²."""
        return self._from(step.model, step.predict(self.z, text), clean)

    def unseen(self, step: Step, text: Text, guidance: float) -> Tensor:
        """w (|ε(z, ∅) − ε_a|² + |ε̂(z, text) − ε_b|²/g)."""
        model, count = step.model, len(self.x_a)
        g, beyond = (model.family.weight_of_prompt(guidance), BEYOND) if model.guides(guidance) else (1.0, 0.0)
        twice = Noisy(torch.cat([self.z.z] * 2), torch.cat([self.z.timestep] * 2))
        nothing, something = step.predict(twice, concatenate([model.encode([""] * count), text])).chunk(2)
        further = self.x_a + beyond * (self.x_a - self.x_c)
        guided = self._from(model, nothing + g * (something - nothing), further)
        return self._from(model, nothing, self.x_a) + guided / g

    def _from(self, model: Model, output: Tensor, clean: Tensor) -> Tensor:
        """w |an output − the one that leaves `clean`|²."""
        (z, t), a, b = self.z, self.at.a, self.at.b
        target = model.to_output(clean, (z - a * clean) / b, t)
        way = (self.x_c - self.x_a).float().square().mean((1, 2, 3), keepdim=True).clamp(min=NEAREST)
        return apart(model, output, target, t, "noise", (b / a).square().clamp(max=1) / way)
