"""Fine-tuning as users do it: a model learns given pictures by the usual denoising loss."""

from __future__ import annotations

import torch

from efface.models.losses import denoising_loss
from efface.models.model import Model
from efface.training.holders import Holder
from efface.training.images import ConceptImages


def fine_tune(
    model: Model,
    tuned: Holder,
    pictures: ConceptImages,
    optimiser: torch.optim.Optimizer,
    steps: range,
    *,
    batch: int,
    seed: int,
) -> None:
    """Steps down |target − ε(z_t, t, prompt)|² on random pictures, noise and timesteps, which a step's number determines.

    Args:
        model: the model, with what is attached to it.
        tuned: what is trained, beside it.
        pictures: what it learns.
        optimiser: of the trained values.
        steps: numbers of the steps.
        batch: pictures a step.
        seed: of everything random.
    """
    with tuned.active():
        for step in steps:
            x = pictures.batch(batch, seed, step)
            text = model.encode([pictures.prompts[i] for i in x.members])
            loss = denoising_loss(model, x.clean, x.noise, x.timesteps, text).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
