"""How long pictures will take and how much memory a model has, measured on two denoising steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from efface.families.base import Side, execution_device
from efface.io.progress import on_step
from efface.models.model import Model, Settings

PROBE = 2
"""Denoising steps on which a rate is measured."""
LARGE = 256
"""Pixels of a side from which on a processor draws its probe one picture at a time."""


def seconds_each(model: Model, prompts: Sequence[str], settings: Settings) -> float:
    """Seconds of one picture by these settings, from two denoising steps of one small batch.

    Args:
        model: as it stands; nothing of it changes.
        prompts: of what is to be drawn; at most four of them are, one where a processor draws large pictures.
        settings: of the whole run, with its number of `steps`.
    """
    device = torch.device(execution_device(model.pipeline))
    some = list(prompts[: of_probe(model, settings.get("side"))])
    steps = settings.get("steps", PROBE)
    marks = [time.perf_counter()]

    def mark(_: object) -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize()  # steps are queued there, not done
        marks.append(time.perf_counter())

    probe: Any = settings | {"steps": min(PROBE, steps)}
    with on_step(mark):
        model.draw(some, seeds=range(len(some)), checked=False, **probe)
    total = time.perf_counter() - marks[0]
    step = marks[-1] - marks[-2]
    beside = max(0.0, total - step * (len(marks) - 1))  # encoding, decoding, and what only a first step costs
    return (beside + step * steps) / len(some)


def of_probe(model: Model, side: Side) -> int:
    """Pictures on which a rate is measured: four, one where a processor draws large ones."""
    side = side or model.family.latent_shape(None)[1] * 8
    large = (max(side) if isinstance(side, tuple) else side) >= LARGE
    return 1 if large and torch.device(execution_device(model.pipeline)).type == "cpu" else 4


def model_bytes(pipeline: Any) -> int:
    """Bytes of a pipeline's weights, wherever they lie; what is not loaded yet counts as what it will be."""
    parts = (part for part in getattr(pipeline, "components", {}).values() if isinstance(part, nn.Module))
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
