"""What a training will take, measured before it starts on one pass forward and one forward and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from efface.concepts.concept import Concept
from efface.errors import EffaceError
from efface.families.base import execution_device
from efface.models.model import Model
from efface.models.timing import model_bytes, of_probe
from efface.training.config import Training
from efface.training.groups import weights_of
from efface.training.holders import Holder, holder
from efface.training.loop import training

ENOUGH, SLOW = 4, 5.0
"""Passes of which the quickest counts, since the first does much that is done once and any may be held up, and seconds after which no
further one is made."""
BACK = 3.0
"""Passes forward that a pass of text encoders forward and back takes, about: it is not measured."""


class Cost(NamedTuple):
    """What a training takes beside the pictures that are drawn for it."""

    steps: int
    """Training steps, of all stages and concepts."""
    seconds: float
    """About, by as many passes of the denoiser as the method makes; what else it does is not counted."""
    bytes: int
    """Weights, what is kept for the largest way back, and what is trained with its gradients and Adam's two moments."""


class Pass(NamedTuple):
    """What a pass takes of one picture."""

    seconds: float
    bytes: int
    """That it keeps for its way back."""


def cost_of(model: Model, config: Training, concepts: Sequence[Concept]) -> Cost:
    """Measured on the model, of which nothing changes.

    Raises:
        EffaceError: the weights that the method would train cannot be trained, or one pass does not fit into memory.
    """
    where = getattr(config, "where", None)
    prompt = concepts[0].prompts()[0]
    work = config.work(concepts)
    if not config.denoises:
        each = _settled(model, None, prompt, config, work.together, False)
        return Cost(work.steps, (work.forward + BACK * work.back) * each.seconds, _weights(model, None))
    held = None if where is None else holder(weights_of(model, where), config.rank, config.seed)
    count = min(work.together, of_probe(model, config.side))
    try:
        with training(model, config.checkpointing):
            back = _settled(model, held, prompt, config, count, True)
            forward = _settled(model, held, prompt, config, count, False) if work.forward else back
    except torch.OutOfMemoryError as error:
        raise EffaceError(
            "a pass forward and back does not fit into the device's memory: take --checkpointing, a smaller --side, or a network in "
            "half precision."
        ) from error
    seconds = work.forward * forward.seconds + work.back * back.seconds
    return Cost(work.steps, seconds, _weights(model, held) + work.together * back.bytes)


def _weights(model: Model, held: Holder | None) -> int:
    """Bytes of the model, and of trained values in single precision with a gradient and two moments each."""
    trained = 0 if held is None else sum(value.numel() for value in held.parameters)
    return model_bytes(model.pipeline) + trained * 4 * 4


def _settled(model: Model, held: Holder | None, prompt: str, config: Training, count: int, back: bool) -> Pass:
    """The quickest of some passes."""
    started, found = time.perf_counter(), list[Pass]()
    while len(found) < ENOUGH and time.perf_counter() - started < SLOW:
        found.append(_pass(model, held, prompt, config, count, back))
    return min(found)


def _pass(model: Model, held: Holder | None, prompt: str, config: Training, count: int, back: bool) -> Pass:
    """A pass of so many pictures, forward and back or forward alone; of a method that never denoises, of encoding a prompt."""
    known = {p.untyped_storage().data_ptr() for module in model.components().values() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = torch.device(execution_device(model.pipeline))
    started = time.perf_counter()
    text = model.encode([prompt] * count)
    if config.denoises:
        z = torch.zeros(count, *model.family.latent_shape(config.side), device=device, dtype=text.states.dtype)
        t = torch.tensor([model.num_train_timesteps // 2], device=device)
        with (
            torch.set_grad_enabled(back),
            held.active() if held else nullcontext(),
            saved_tensors_hooks(keep, lambda x: x),
        ):
            output = model.predict(z.requires_grad_(back and held is None), t, text)
            if back:
                output.float().square().mean().backward()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    for value in held.parameters if held else ():
        value.grad = None
    return Pass((time.perf_counter() - started) / count, sum(kept.values()) // count)
