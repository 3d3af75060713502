"""Terms that losses of several methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from efface.io.digest import sha256_of_tensor
from efface.models.model import Model, Text
from efface.training.config import Rolling
from efface.training.latents import Noisy, rolled
from efface.training.loop import Step
from efface.training.targets import apart


def roll(step: Step, text: Text, config: Rolling, *, by_edited: bool = False) -> Noisy:
    """R(text, k): latents rolled for a random number of sampler steps, and their own timestep.

    Where the frozen model rolls and `config.bank` is above 0, one of so many latents is taken, each rolled once in a training.
    """
    settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
    if not config.bank or by_edited:
        return rolled(step.model, text, step.integer(config.draw_steps), step.seed, **settings)
    number = step.integer(config.bank)
    key = (sha256_of_tensor(text.states), number)
    if key not in step.bank:
        after = number * config.draw_steps // config.bank
        step.bank[key] = rolled(step.model, text, after, config.seed + number, **settings)
    return step.bank[key]


def retained(
    step: Step, prompts: Sequence[str], config: Rolling, *, count: int = 1, reads: Callable[..., Text] | None = None
) -> Tensor:
    """λ |ε(z, r) − ε₀(z, r)|² on `count` of the retained prompts, z rolled under them by the frozen model; 0 where λ is.

    Args:
        step: the step.
        prompts: retained ones.
        config: options.
        count: prompts a step.
        reads: encodes prompts with gradients, as `encoders.read`, where it is text encoders that are trained.
    """
    if not config.retain or not prompts:
        return torch.zeros(())
    chosen = [step.pick(prompts) for _ in range(count)]
    text = step.model.encode(chosen)
    at = roll(step, text, config)
    with torch.no_grad():
        before = step.predict(at, text)
    with step.edited():
        after = step.predict(at, text if reads is None else reads(step.model, chosen))
    return config.retain * apart(step.model, after, before, at.timestep, config.loss_in)


@contextmanager
def begin_detached(model: Model, active: bool = True) -> Iterator[None]:
    """Context in which no gradient passes through the keys and values of the first token, which every prompt shares."""

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    with ExitStack() as stack:
        for projection in model.text_projections() if active else ():
            stack.callback(projection.module.register_forward_hook(hook).remove)
        yield
