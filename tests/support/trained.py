"""The loss of a trained eraser, taken out of it before anything is trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from efface.erasers import ERASERS
from efface.models.sampling import generator
from efface.training import loop
from efface.training.loop import Step


class Begun(NamedTuple):
    """A training that is about to begin."""

    model: Any
    held: Any
    loss: Any
    options: dict[str, Any]

    def step(self, number: int = 0, seed: int = 11) -> Step:
        """A step of it."""
        average = loop.Average(self.held.parameters, self.options["decay"]) if self.options.get("decay") else None
        return Step(number, self.model, self.held, generator("test", seed, number), seed, average)

    def gradients(self, number: int = 0, seed: int = 11) -> tuple[float, list[torch.Tensor]]:
        """Loss and gradients of a step."""
        step = self.step(number, seed)
        for p in self.held.parameters:
            p.grad = None
        with loop.training(self.model, False):
            loss = self.loss(step)
            if loss.requires_grad:  # else it left its gradients itself
                step.backward(loss)
        return float(loss.detach()), [torch.zeros_like(p) if p.grad is None else p.grad for p in self.held.parameters]


class _BegunError(Exception):
    pass


def begun(model: Any, method: str, concepts: Any, **options: Any) -> Begun:
    """A method's training, before its first step."""
    eraser = ERASERS.load(method)
    return _caught(lambda: eraser.erase(model, concepts, eraser.Config(**options)))


def begun_on(model: Any, erasure: Any, evidence: Any) -> Begun:
    """A training on of an erasure with what attacks found, before its first step."""
    return _caught(lambda: ERASERS.load(erasure.provenance.method).extend(model, erasure, evidence))


def _caught(train: Any) -> Begun:
    """The training that a call begins."""
    found: list[Begun] = []

    def catch(model: Any, held: Any, loss: Any, config: Any, **rest: Any) -> None:
        found.append(Begun(model, held, loss, rest | {"config": config}))
        raise _BegunError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", catch)
        with pytest.raises(_BegunError):
            train()
    return found[0]
