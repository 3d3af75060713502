"""One call of the denoiser as guards see it: its noise level, what its output is in units of noise, and what it returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures.guards.aside import argument_names
from efface.errors import EffaceError
from efface.families.schedule import mixture, require_timesteps
from efface.models.caller import call_arguments, drawing_by_efface
from efface.models.model import Model

CACHED = (
    "one of diffusers' caches is on in the denoiser (enable_cache), and a guard's own predictions would be taken for the picture's: "
    "call disable_cache(), or choose a guard on text, such as safree."
)
LATE = (
    "the last step of this call is taken at {last:.0%} of the schedule by its noise level, before the guard's warm-up of {begins:.0%} "
    "ends: it changes nothing in this picture. Take more steps, or a smaller warm-up."
)
CLOSE = 1e-6
"""Rounding of a share of the schedule."""
LEAST = 1e-4
"""Least share of the picture in the latents by which what is remembered in units of noise is divided."""
without_graph: Any = torch.compiler.disable
"""Says of a hook that it is called, and not traced, in a compiled network."""


@dataclass
class Call:
    """One call of the denoiser."""

    model: Model
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        self.latents: Any = self.args[0] if self.args else self.kwargs[argument_names(self.module)[0]]
        self.timestep = self.model.networks()[0].timestep(self.args, self.kwargs)
        self.level = float(self.timestep.max())

    @property
    def share(self) -> float:
        """How much of the schedule is over, 0 to 1."""
        return self.over(self.level)

    @property
    def last(self) -> float:
        """How much of the schedule is over at the picture's last step, 0 to 1; 1 for a single prediction."""
        drawing = drawing_by_efface()
        if drawing is not None:
            return 1.0 if drawing.last is None else self.over(drawing.last)
        arguments = call_arguments()
        if arguments is None:
            return 1.0
        timesteps = self.model.pipeline.scheduler.timesteps
        end = arguments.get("denoising_end")
        if isinstance(end, float) and 0 < end < 1:  # SDXL's base, whose last steps the refiner takes
            taken = timesteps[timesteps >= round((1 - end) * self.model.num_train_timesteps)]
            timesteps = taken if len(taken) else timesteps[:1]
        return self.over(float(timesteps[-1]))

    def over(self, level: float) -> float:
        """How much of the schedule is over at a level, 0 to 1; EffaceError for a schedule whose timesteps do not say."""
        require_timesteps(self.model.pipeline.scheduler)
        return 1 - level / self.model.num_train_timesteps

    @property
    def has_graph(self) -> bool:
        """Whether gradients go to the latents, and so through every prediction."""
        return isinstance(self.latents, Tensor) and self.latents.requires_grad

    def channels(self, raw: Tensor) -> int:
        """How many channels of an output are the picture's, and not a variance that is predicted beside."""
        own = self.model.family.latent_shape(None)[0]
        return own if raw.ndim == 4 and raw.shape[1] == 2 * own else raw.shape[1]

    def unit(self, states: Tensor, rows: slice) -> Tensor:
        """c of every row (batch 1 …): 1 for a prediction of ε, a for one of v or of a flow, since ε = b z + a v and ε = z + a u."""
        pipeline = self.model.pipeline
        timestep = self.timestep[rows] if len(self.timestep) > 1 else self.timestep
        found = mixture(pipeline.scheduler, timestep, states.float())
        unit = torch.ones_like(found.a) if found.kind == "epsilon" else found.a
        return self.model.family.output_sign * unit.reshape(-1, *[1] * (states.ndim - 1))


def require_no_cache(denoiser: nn.Module) -> None:
    """Raise EffaceError where what a denoiser computed at one call is used at another."""
    if getattr(denoiser, "is_cache_enabled", False):
        raise EffaceError(CACHED)


def read(output: Any) -> Tensor:
    """What a denoiser returned, as one tensor (batch …)."""
    if isinstance(output, Tensor):
        return output
    found = output[0] if isinstance(output, tuple | list) else output.sample
    return torch.stack(list(found)) if isinstance(found, list | tuple) else found


def write(output: Any, states: Tensor) -> Any:
    """An output like the given one that holds other states (batch …)."""
    if isinstance(output, Tensor):
        return states
    if isinstance(output, tuple):
        return (list(states.unbind()) if isinstance(output[0], list) else states, *output[1:])
    return type(output)(**(dict(output) | {"sample": states}))


def momentum_unit(unit: Tensor) -> Tensor:
    """c as a divisor: at pure noise, where a flow says nothing of ε, nothing is remembered yet."""
    return torch.where(unit < 0, -1.0, 1.0) * unit.abs().clamp(min=LEAST)
