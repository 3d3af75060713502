"""The course of denoising: where it begins and how each step is taken; the scheduler's own, and those that start from a picture.

`Model.denoise` asks a course for its beginning, for what the denoiser reads and for every step. Schedulers differ in how they
scale latents; a course leaves that to them, so that one course serves samplers of noise (DDIM, DPM++), of sigmas (Euler) and of
flows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.families.schedule import mixture, prediction_of, scale_input


class Moment(NamedTuple):
    """One step that is to be taken."""

    number: int
    """Steps of the schedule before it."""
    timestep: Tensor
    noisy: Tensor
    """Latents as the denoiser read them (batch channels height width)."""
    latents: Tensor
    """The same in the scheduler's own scale."""
    options: dict[str, Any]
    """Further arguments of the scheduler's step."""


class Course:
    """Denoising from noise alone, by the scheduler."""

    skipped: int = 0
    """Steps of the schedule that are left out at its beginning."""

    def begin(self, scheduler: Any, noise: Tensor) -> Tensor:
        """Latents before the first step, of standard noise (batch channels height width)."""
        return noise * getattr(scheduler, "init_noise_sigma", 1.0)

    def read(self, scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """Latents as the denoiser takes them."""
        return scale_input(scheduler, latents, timestep)

    def step(self, scheduler: Any, output: Tensor, moment: Moment) -> Tensor:
        """Latents after a step, of the denoiser's guided output."""
        return scheduler.step(output, moment.timestep, moment.latents, return_dict=False, **moment.options)[0]

    def timesteps(self, scheduler: Any) -> Tensor:
        """What is left of the schedule, which the scheduler is told of."""
        first = self.skipped * getattr(scheduler, "order", 1)
        if first and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler.timesteps[first:]


FROM_NOISE = Course()
"""The course of every picture that is drawn from a prompt alone."""


class FromPicture(Course):
    """Image-to-image (SDEdit, arXiv 2108.01073): clean latents, noised up to a step, are denoised from there.

    Args:
        clean: latents of the pictures (batch channels height width).
        skipped: steps that are left out; 0 begins at full noise.
    """

    def __init__(self, clean: Tensor, skipped: int):
        self.clean = clean
        self.skipped = skipped

    def begin(self, scheduler: Any, noise: Tensor) -> Tensor:
        first = scheduler.timesteps[self.skipped * getattr(scheduler, "order", 1)]
        return noised(scheduler, self.clean.to(noise), noise, first)


class Resumed(Course):
    """Denoising that goes on where another model stopped.

    Args:
        latents: after the steps that were taken, in the scheduler's scale (batch channels height width).
        skipped: how many were.
    """

    def __init__(self, latents: Tensor, skipped: int):
        self.latents = latents
        self.skipped = skipped

    def begin(self, scheduler: Any, noise: Tensor) -> Tensor:
        return self.latents.to(noise)


class Inpainted(Course):
    """Inpainting with any model (RePaint without its resampling, arXiv 2201.09865): after every step what is known of the
    picture, noised alike, takes its place.

    Args:
        clean: latents of the pictures (batch channels height width).
        hidden: 1 where the picture is to be drawn, 0 where it is known (1 1 height width).
    """

    def __init__(self, clean: Tensor, hidden: Tensor):
        self.clean = clean
        self.hidden = hidden

    def begin(self, scheduler: Any, noise: Tensor) -> Tensor:
        self.noise = noise
        return super().begin(scheduler, noise)

    def step(self, scheduler: Any, output: Tensor, moment: Moment) -> Tensor:
        latents = super().step(scheduler, output, moment)
        known = self.clean.to(latents)
        if moment.number + 1 < len(scheduler.timesteps):
            known = noised(scheduler, known, self.noise, scheduler.timesteps[moment.number + 1])
        hidden = self.hidden.to(latents)
        return (1 - hidden) * known + hidden * latents


class Steered(Course):
    """Every estimate of the clean latents is changed before the step is taken.

    The noise is what is left of the noisy latents, so that any scheduler's step leads towards the changed estimate.

    Args:
        change: clean latents (batch channels height width) to others.
    """

    def __init__(self, change: Callable[[Tensor], Tensor]):
        self.change = change

    def step(self, scheduler: Any, output: Tensor, moment: Moment) -> Tensor:
        mix = mixture(scheduler, moment.timestep, moment.noisy)
        clean = self.change(mix.clean(output, moment.noisy)).to(output)
        noise = (moment.noisy - mix.a * clean) / mix.b
        return super().step(scheduler, mix.output(clean, noise), moment)


class Estimating(Course):
    """Denoising from noise by the scheduler that keeps its last estimate of the clean latents (batch channels height width)."""

    clean: Tensor

    def step(self, scheduler: Any, output: Tensor, moment: Moment) -> Tensor:
        self.clean = mixture(scheduler, moment.timestep, moment.noisy).clean(output, moment.noisy)
        return super().step(scheduler, output, moment)


class Ancestral(Course):
    """The DDPM step with more noise than the schedule says (the probe by noise of arXiv 2505.17013).

    With z = a x + b ε and a', b' of the next step, σ² = b'² (b² − (a b'/a')²) / b² is the variance of the posterior, and
    z' = a' x̂ + √(b'² − σ²) ε̂ + η σ n: η = 1 is the DDPM step of any schedule, flows among them.

    Args:
        eta: η; the paper's code tries 1.3 to 1.9.
        generators: of n, one a picture.
    """

    def __init__(self, eta: float, generators: Sequence[torch.Generator]):
        self.eta = eta
        self.generators = generators

    def begin(self, scheduler: Any, noise: Tensor) -> Tensor:
        return noise

    def read(self, scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        return latents

    def step(self, scheduler: Any, output: Tensor, moment: Moment) -> Tensor:
        now = mixture(scheduler, moment.timestep, moment.noisy)
        clean, noise = now.clean(output, moment.noisy), now.noise(output, moment.noisy)
        if moment.number + 1 == len(scheduler.timesteps):
            return clean
        then = mixture(scheduler, scheduler.timesteps[moment.number + 1], moment.noisy)
        variance = then.b**2 * (now.b**2 - (now.a * then.b / then.a) ** 2).clamp(min=0) / now.b**2
        fresh = standard_noise(tuple(noise.shape[1:]), self.generators).to(noise)
        kept = (then.b**2 - variance).clamp(min=0).sqrt()
        return then.a * clean + kept * noise + self.eta * variance.sqrt() * fresh


def noised(scheduler: Any, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Clean latents with noise up to a timestep, in the scheduler's scale (batch channels height width)."""
    timestep = torch.as_tensor(timestep).reshape(1)
    if prediction_of(scheduler) == "flow" and hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, timestep, noise)
    return scheduler.add_noise(clean, noise, timestep)


def standard_noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    """One picture's noise (channels height width) of each generator, on the CPU (batch channels height width)."""
    like = {"dtype": torch.float32, "device": "cpu"}  # whatever the program's defaults are
    return torch.stack([torch.randn(shape, generator=generator, **like) for generator in generators])
