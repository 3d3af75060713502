"""What a scheduler says about noise: how clean latents and noise are mixed, and what the denoiser's output means.

With x the clean latents, ε the noise and z = a x + b ε, a denoiser predicts ε ("epsilon"), a ε − b x ("v_prediction")
or, for flow matching (a = 1 − b), ε − x ("flow").
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from efface.errors import EffaceError

KINDS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "flow_prediction": "flow"}
"""What schedulers call their prediction -> what it is."""


class Mixture(NamedTuple):
    """z = a x + b ε at some noise level, and what the denoiser predicts there."""

    kind: str
    """ "epsilon", "v_prediction" or "flow"."""
    a: Tensor
    """Share of the clean latents, shaped to multiply latents."""
    b: Tensor
    """Share of the noise."""

    def noise(self, output: Tensor, noisy: Tensor) -> Tensor:
        """ε of a raw output for noisy latents."""
        if self.kind == "epsilon":
            return output
        return noisy + self.a * output if self.kind == "flow" else self.b * noisy + self.a * output

    def clean(self, output: Tensor, noisy: Tensor) -> Tensor:
        """x of a raw output for noisy latents."""
        if self.kind == "epsilon":
            return (noisy - self.b * output) / self.a
        return noisy - self.b * output if self.kind == "flow" else self.a * noisy - self.b * output

    def noisy(self, clean: Tensor, noise: Tensor) -> Tensor:
        """z of clean latents and noise."""
        return self.a * clean + self.b * noise

    def output(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The raw output that is right for clean latents with this noise."""
        if self.kind == "epsilon":
            return noise
        return noise - clean if self.kind == "flow" else self.a * noise - self.b * clean


def prediction_of(scheduler: Any) -> str:
    """What a scheduler takes the denoiser's output for.

    Raises:
        EffaceError: it is none of the known kinds.
    """
    if "FlowMatch" in type(scheduler).__name__:
        return "flow"
    kind = scheduler.config.get("prediction_type")
    if kind not in KINDS:
        raise EffaceError(f"the scheduler predicts {kind!r}; expected {', '.join(KINDS)} or flow matching.")
    return KINDS[kind]


def require_timesteps(scheduler: Any) -> None:
    """Raise EffaceError for a scheduler whose timesteps do not say how much noise there is."""
    name = type(scheduler).__name__
    if not hasattr(scheduler, "alphas_cumprod") and "FlowMatch" not in name and not name.startswith("Blockwise"):
        raise EffaceError(
            f"the timesteps of {name} do not say how much noise there is: choose another scheduler, such as "
            "DPMSolverMultistepScheduler."
        )


def mixture(scheduler: Any, timestep: Tensor, like: Tensor) -> Mixture:
    """How latents `like` (batch channels height width) are mixed at a timestep (batch, or one for all)."""
    kind = prediction_of(scheduler)
    timestep = torch.as_tensor(timestep)
    if type(scheduler).__name__.startswith("Blockwise"):
        b = scheduler.noise_shares(timestep.to(like.device), like)
        return Mixture(kind, (1 - b).to(like.dtype), b.to(like.dtype))
    if kind == "flow":
        # Timesteps of flow matching are the noise's share in thousandths, whatever the shift.
        b = (timestep.to(like.device, torch.float32) / scheduler.config.num_train_timesteps).reshape(-1, 1, 1, 1)
        return Mixture(kind, (1 - b).to(like.dtype), b.to(like.dtype))
    require_timesteps(scheduler)
    alpha = scheduler.alphas_cumprod.to(like.device, torch.float32)[timestep.long()].reshape(-1, 1, 1, 1)
    return Mixture(kind, alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype))


def scale_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Latents as the denoiser takes them; flow-matching schedulers do not scale them."""
    return scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents


def step_options(scheduler: Any, generators: list[torch.Generator], eta: float | None) -> dict[str, Any]:
    """Generators for schedulers that add noise at every step, and η of those that have one, where the pipeline gives it."""
    options = {"generator": generators} | ({} if eta is None else {"eta": eta})
    taken = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in taken}


def set_shifted_sigmas(scheduler: Any, steps: int, tokens: int, device: Any, *, max_shift: float = 1.15) -> None:
    """Evenly spaced noise levels, shifted for the picture's number of tokens as the scheduler's configuration says."""
    set_sigmas(scheduler, steps, shift(scheduler, tokens, max_shift), device)


def set_sigmas(scheduler: Any, steps: int, mu: float, device: Any) -> None:
    """Evenly spaced noise levels from 1 down to 1/steps, shifted by `mu`."""
    if scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(steps, device=device, mu=mu)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device, mu=mu)


def shift(scheduler: Any, tokens: int, max_shift: float) -> float:
    """The logarithm of a schedule's shift: linear in the number of a picture's tokens (Esser et al., arXiv 2403.03206)."""
    config = scheduler.config
    least, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (high - low) / (most - least)
    # In this order, as the pipelines have it: the last bit of mu decides the last bit of every level.
    return tokens * slope + (low - slope * least)
