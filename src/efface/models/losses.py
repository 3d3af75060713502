"""The denoising loss of a model."""

from __future__ import annotations

from torch import Tensor

from efface.models.model import Model, Text


def apart(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of every row (batch,)."""
    return (outputs - targets).square().flatten(1).mean(1)


def denoising_loss(model: Model, clean: Tensor, noise: Tensor, level: Tensor, text: Text) -> Tensor:
    """|target − ε(z_t, t, text)|² of every row (batch,), in the terms of what the model predicts."""
    noisy = model.to_noisy(clean, noise, level)
    return apart(model.predict(noisy, level, text), model.to_output(clean, noise, level))
