"""The clock of a block-wise autoregressive diffusion transformer, and the scheduler that follows it.

A picture is drawn block by block, each with all steps, so the noise level falls from 1000 to 0 once a block. Timesteps
count both: 1000 · (blocks still to come after this one) + level. They fall over a whole picture, so that whatever is kept
by the timestep is kept by block and level, and never mixes two blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from einops import repeat
from torch import Tensor

from efface.errors import EffaceError

LEVELS = 1000
"""Noise levels of one block."""


class Moment(NamedTuple):
    """Where in a picture timesteps lie."""

    block: Tensor
    """Index of the block that is denoised (batch,)."""
    level: Tensor
    """Its noise level, above 0 up to 1000 (batch,)."""


def moment_of(timestep: Tensor, blocks: int) -> Moment:
    """Block and level of timesteps (batch,).

    Args:
        timestep: above 0 up to 1000 · blocks.
        blocks: of a picture.
    """
    timestep = torch.as_tensor(timestep).float()
    to_come = (torch.ceil(timestep / LEVELS) - 1).clamp(0, blocks - 1)
    return Moment(block=(blocks - 1 - to_come).long(), level=timestep - LEVELS * to_come)


def noise_shares(timestep: Tensor, blocks_a_side: int, side: int) -> Tensor:
    """Share of the noise at every cell (batch 1 side side): 0 in blocks that are drawn, 1 in those to come, level / 1000 in between.

    Args:
        timestep: (batch,), or one for all.
        blocks_a_side: a picture has its square.
        side: cells of a side of the latents.
    """
    block, level = moment_of(timestep.reshape(-1), blocks_a_side**2)
    number = torch.arange(blocks_a_side**2, device=level.device)
    shares = torch.where(
        number > block[:, None], 1.0, torch.where(number < block[:, None], 0.0, level[:, None] / LEVELS)
    )
    cells = side // blocks_a_side
    return repeat(shares, "b (r c) -> b 1 (r h) (c w)", r=blocks_a_side, h=cells, w=cells)


class BlockwiseFlowMatchEulerScheduler(SchedulerMixin, ConfigMixin):
    """Euler's method for flow matching, one block after another; `set_timesteps(n)` gives n steps to each.

    Args:
        blocks_a_side: a picture has its square.
        shift: above 1, more of the steps are taken where noise prevails (Esser et al., arXiv 2403.03206).
        num_train_timesteps: timesteps of a whole picture; 1000 a block.
    """

    order = 1

    @register_to_config
    def __init__(self, blocks_a_side: int = 2, shift: float = 1.0, num_train_timesteps: int = 4000):
        self.init_noise_sigma = 1.0
        self.set_timesteps(1)

    @property
    def blocks(self) -> int:
        """Of a picture."""
        return int(self.config["blocks_a_side"]) ** 2

    def noise_shares(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Share of the noise at every cell of latents (batch channels height width) at timesteps (batch 1 height width).

        Raises:
            EffaceError: asked for without latents.
        """
        if like.ndim != 4:
            raise EffaceError(
                "the noise of a picture that is drawn block by block differs from cell to cell: one level for all of it cannot be "
                "given; use a model that draws whole pictures."
            )
        return noise_shares(timestep, int(self.config["blocks_a_side"]), like.shape[-1])

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Clean latents with noise up to a timestep (batch channels height width): later blocks are all noise."""
        return torch.lerp(sample, noise, self.noise_shares(timestep.to(sample.device), sample).to(sample))

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Have every block take so many steps."""
        u = torch.linspace(1, 0, num_inference_steps + 1)[:-1]
        shift = float(self.config["shift"])
        levels = LEVELS * shift * u / (1 + (shift - 1) * u)
        to_come = LEVELS * torch.arange(self.blocks - 1, -1, -1.0)
        self.num_inference_steps = num_inference_steps
        self.timesteps = (to_come[:, None] + levels).flatten().to(device)

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """Latents (batch channels height width) one step on.

        Args:
            model_output: velocity, noise − clean; 0 outside the block of this timestep.
            timestep: of this step.
            sample: latents before it.
            return_dict: whether an output class is returned or a tuple.
        """
        now = moment_of(torch.as_tensor(timestep).cpu().reshape(-1)[:1], self.blocks)
        index = int((self.timesteps.cpu() - float(torch.as_tensor(timestep).reshape(-1)[0])).abs().argmin())
        last = (index + 1) % int(self.num_inference_steps) == 0
        then = 0.0 if last else float(moment_of(self.timesteps[index + 1].cpu(), self.blocks).level)
        moved = sample + (then - float(now.level)) / LEVELS * model_output
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])
