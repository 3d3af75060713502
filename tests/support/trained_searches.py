"""Shared by tests of HiRM, MACE, Receler, AdvUnlearn, STEREO, AEGIS, EraseFlow and unsee: quick options, and what attacks found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import efface
import tiny_families
from efface.erasers.base import Evidence, FoundInput
from efface.models.model import Model
from efface.training import loop
from efface.training.latents import Noisy, rolled
from efface.training.loop import Step
from trained import Begun

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
DOG = efface.Concept("dog", anchor="cat", templates=("a {}",))
QUICK: dict[str, dict[str, Any]] = {
    "hirm": {"iterations": 3, "lr": 1e-2},
    "mace": {"iterations": 2, "images": 2, "draw_steps": 2, "lr": 1e-1, "ridge": 10.0},
    "receler": {"iterations": 3, "draw_steps": 2, "attack_steps": 2, "attack_rows": 3, "rank": 4, "lr": 1e-2},
    "advunlearn": {"iterations": 3, "draw_steps": 2, "warmup": 1, "attack_steps": 2, "retain_batch": 2, "lr": 1e-3},
    "stereo": {
        "iterations": 2, "draw_steps": 2, "rounds": 1, "round_iterations": 2, "images": 2, "word_iterations": 2, "lr": 1e-2,
        "round_lr": 1e-2,
    },
    "aegis": {"iterations": 3, "draw_steps": 2, "lr": 1e-2},
    "eraseflow": {"iterations": 3, "draw_steps": 3, "early": 1, "late": 1, "fresh": 1, "lr": 1e-2},
    "unsee": {
        "iterations": 3, "draw_steps": 2, "images": 2, "retained_images": 2, "batch": 2, "words": 2, "fresh": 1, "rank": 2, "lr": 1e-2,
    },
}  # fmt: skip
"""Options with which each method takes less than a second."""
UNETS = {"sd1", "sd2", "sdxl", "sdxl-refiner"}
"""Families whose encoders take words by their embeddings."""
FINDINGS = ("words", "embeddings", "states")
"""What attacks find."""


def predict(model: Any, z: Noisy, prompt: str) -> torch.Tensor:
    """What the denoiser says of noisy latents under a prompt."""
    return model.predict(z.z, z.timestep, model.encode([prompt]))


def squared(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean squared difference."""
    return float((a.detach().double() - b.detach().double()).square().mean())


def started(training: Begun, scale: float = 0.05) -> None:
    """Move the trained values a little, so that edited and frozen model differ."""
    g = torch.Generator().manual_seed(0)
    for p in training.held.parameters:
        p.data += scale * torch.randn(p.shape, generator=g)


def some_latents(model: Any, seed: int = 0, t: int = 400) -> Noisy:
    """Noise at a timestep."""
    g = torch.Generator().manual_seed(seed)
    return Noisy(torch.randn(1, *model.family.latent_shape(None), generator=g), torch.tensor(t))


def roll(model: Any, prompt: str, after: int, steps: int = 2, guidance: float = 3.0) -> Noisy:
    """The noisy latents of a prompt after so many steps of the sampler, from the seed of a test's step."""
    return rolled(model, model.encode([prompt]), after, 11, steps=steps, guidance=guidance, side=None)


def latents_of(family: str) -> np.ndarray:
    """Latents of two prompts, drawn by the tiny pipeline of a family."""
    model = Model(tiny_families.pipeline(family))
    text = model.encode(["a church", "a cat"])
    side = tiny_families.CASES[family].side
    return model.latents(text, seeds=[0, 1], steps=2, guidance=4.0, side=side).float().numpy()


def erased(pipe: Any, method: str, *, concepts: Any = (CHURCH,), **options: Any) -> Any:
    """An erasure by a method with its quick options."""
    return efface.erase(pipe, list(concepts), method=method, keep=["a truck"], **QUICK[method] | options)


class StoppedError(Exception):
    """What a training is stopped by."""


def stopping(monkeypatch: pytest.MonkeyPatch, at: int, error: Any) -> None:
    """Have the training stop when it tells of its `at`-th step, over all of its stages."""
    told = []

    def tell(line: Any) -> None:
        told.append(line)
        if len(told) == at:
            raise error

    monkeypatch.setattr(loop, "tell", tell)


def evidence_of(model: Any, finding: str = "words", prompt: str = "a church") -> Evidence:
    """What attacks would say that they found in the place of a prompt."""
    ids = tuple(model.token_spans()[0].ids("art truck"))
    soft = model.token_table().float()[[3, 5]] + 0.1 if finding == "embeddings" else None
    text = model.encode_tokens([ids], None if soft is None else soft[None])
    if finding == "states":
        text = text._replace(states=text.states + 0.1)
    found = FoundInput(prompt, ids, soft, only_states=finding == "states")
    words = ("art truck" if finding == "words" else None,)
    return Evidence(
        concept=CHURCH, text=text, prompts=words, anchors=("a cat",), images=1, rounds=1, found=(found,)
    )  # fmt: skip


def on_found(training: Begun) -> tuple[int, Step]:
    """The first step that is about what was found, and that step after the draws that choose it."""
    number = next(n for n in range(50) if training.step(n).integer(2))
    step = training.step(number)
    step.integer(2)
    step.integer(1)
    return number, step
