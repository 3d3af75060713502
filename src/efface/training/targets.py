"""Targets: mixes of a frozen model's outputs under several texts, and how far an output is from one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efface.families.schedule import mixture
from efface.families.text import concatenate
from efface.models.model import Model, Text
from efface.training.config import LossIn
from efface.training.latents import Noisy


@torch.no_grad()
def mix(model: Model, at: Noisy, parts: Sequence[tuple[Text, float]]) -> Tensor:
    """Σ wᵢ ε(z, t, textᵢ) in one batched forward (batch channels height width).

    With Σ wᵢ = 1 it is the same prediction for models that predict the noise, v or a flow: at one (z, t) each output is an
    affine function of the others.

    Raises:
        ValueError: the weights do not add up to 1.
    """
    total = sum(weight for _, weight in parts)
    if abs(total - 1) > 1e-9:
        raise ValueError(
            f"the weights of a target add up to {total}; expected 1, or it is another target for v and flow."
        )
    texts = [text if len(text.states) == len(at.z) else text.repeat(len(at.z)) for text, _ in parts]
    outputs = model.predict(at.z.repeat(len(parts), 1, 1, 1), at.timestep, concatenate(texts)).chunk(len(parts))
    return sum(
        (weight * output for (_, weight), output in zip(parts, outputs, strict=True)), torch.zeros_like(outputs[0])
    )


def apart(
    model: Model, output: Tensor, target: Tensor, timestep: Tensor, loss_in: LossIn, weights: Tensor | None = None
) -> Tensor:
    """Mean squared difference of two raw outputs at one timestep, of each element times a weight where there are some.

    In units of the noise it is the raw one times a², since |Δv|² = |Δε|²/a² and |Δflow|² = |Δε|²/(1 − s)², where a and
    1 − s are the share of clean latents: at the noisiest steps a is near 0, and a raw loss would weigh little else.
    """
    difference = (output.float() - target.float()).square()
    at = mixture(model.pipeline.scheduler, timestep, difference)
    if loss_in == "noise" and at.kind != "epsilon":
        difference = difference * at.a.square()
    return (difference if weights is None else difference * weights).mean()
