"""What a training takes at least, measured on one pass forward and back before it starts."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.families.base import execution_device
from efface.models.model import Model
from efface.models.timing import model_bytes
from efface.training.config import Training
from efface.training.groups import weights_of
from efface.training.holders import Holder, holder
from efface.training.latents import Noisy
from efface.training.loop import training

SLOW = 5.0
"""Seconds of a first pass from which it counts; the first of quicker ones does much that is done once."""


class Cost(NamedTuple):
    """What a training takes at least: methods that roll latents, search, or take batches make several passes a step."""

    steps: int
    seconds: float
    """Of as many passes forward and back, of one picture each."""
    bytes: int
    """Weights, what such a pass keeps for its way back, and what is trained with its gradients and Adam's two moments."""


def cost_of(model: Model, config: Training, prompt: str) -> Cost:
    """Measured on the model, of which nothing changes.

    Raises:
        EffaceError: the weights that the method would train cannot be trained, or one pass does not fit into memory.
    """
    where = getattr(config, "where", None)
    if not config.denoises:
        return Cost(
            config.iterations, config.iterations * _one_pass(model, None, prompt, config)[0], _weights(model, None)
        )
    held = None if where is None else holder(weights_of(model, where), config.rank, config.seed)
    try:
        with training(model, config.checkpointing):
            seconds, kept = _one_pass(model, held, prompt, config)
            if seconds < SLOW:
                seconds, kept = _one_pass(model, held, prompt, config)
    except torch.OutOfMemoryError as error:
        raise EffaceError(
            "a pass forward and back of one picture does not fit into the device's memory: take --checkpointing, a smaller --side, "
            "or a network in half precision."
        ) from error
    return Cost(config.iterations, config.iterations * seconds, _weights(model, held) + kept)


def _weights(model: Model, held: Holder | None) -> int:
    """Bytes of the model, and of trained values in single precision with a gradient and two moments each."""
    trained = 0 if held is None else sum(value.numel() for value in held.parameters)
    return model_bytes(model.pipeline) + trained * 4 * 4


def _one_pass(model: Model, held: Holder | None, prompt: str, config: Training) -> tuple[float, int]:
    """Seconds of a pass, and bytes that it keeps; of a method that never denoises, of encoding a prompt."""
    known = {p.untyped_storage().data_ptr() for module in model.components().values() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = torch.device(execution_device(model.pipeline))
    started = time.perf_counter()
    text = model.encode([prompt])
    if config.denoises:
        z = torch.zeros(1, *model.family.latent_shape(config.side), device=device, dtype=text.states.dtype)
        at = Noisy(z.requires_grad_(held is None), torch.tensor([model.num_train_timesteps // 2], device=device))
        with held.active() if held else nullcontext(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            model.predict(at.z, at.timestep, text).float().square().mean().backward()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    for value in held.parameters if held else ():
        value.grad = None
    return time.perf_counter() - started, sum(kept.values())
