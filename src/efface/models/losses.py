"""The denoising loss of a model."""

from __future__ import annotations

from torch import Tensor

from efface.models.model import Model, Text


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of every row (batch,)."""
    return (outputs - targets).square().flatten(1).mean(1)


def denoising_loss(model: Model, clean: Tensor, noise: Tensor, timestep: Tensor, text: Text) -> Tensor:
    """|target − ε(z_t, t, text)|² of every row (batch,); target and ε are of the kind that the model predicts."""
    noisy = model.to_noisy(clean, noise, timestep)
    return mse(model.predict(noisy, timestep, text), model.to_output(clean, noise, timestep))
