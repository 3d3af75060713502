"""KPOP: knowledge of a concept moves into a key, a few rows of text states, and out of the weights (after arXiv 2403.12326)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept, default_anchor
from efface.erasers.base import Retaining, check_weights
from efface.errors import UsageError
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.latents import Noisy
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of KPOP; no code of its authors was found, and all numbers are ours."""

    where: Where = "cross"
    """Trained weights."""
    iterations: int = 500
    """Training steps, each of them a step of the key and then one of the weights."""
    lr: float = 1e-5
    """Learning rate of Adam for the weights."""
    rows: int = 4
    """k, rows of the key."""
    key_lr: float = 0.01
    """Learning rate of Adam for the key, in units of the size of the entries of a text state."""
    recover: float = 1.0
    """λ, weight of what the key brings back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "recover")
        if self.rows < 1 or not 0 < self.key_lr < float("inf"):
            raise UsageError(
                f"rows is {self.rows} and key_lr {self.key_lr}; expected at least 1, and a number above 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll and three targets; the key's step reads under two texts, that of the weights under three."""
        return self.each_step(forward=self.rolled + 3, back=5, together=3)


PUBLISHED: Mapping[str, Any] = {}
"""The paper names two objectives that alternate, transfer into the key and hiding in the weights, and no code was found: this is a
method after it, without a claim to its figures."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """min_p R(p, θ), then min_θ |ε(z, c) − ε₀(z, a)|² + λ R(p, θ), in turn, with R(p, θ) the mean of |ε(z, y; p) − ε₀(z, y)|² over
    y = c and ∅, at latents z rolled under c by the frozen model.

    The key stands before the states of every prompt, so that both halves of a guided step have it: hence ∅. Whoever has the
    original weights needs no key, and whoever has the erased ones can learn another: this is for one checkpoint that serves two
    audiences. The key is `erasure.key()`.

    Raises:
        EffaceError: the model reads text of one length only.
    """
    import torch

    from efface.erasures.keyed import keyed_delta, require_rows
    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.key import Key
    from efface.training.result import trained_erasure
    from efface.training.targets import apart
    from efface.training.terms import retained, roll

    require_rows(model)
    pairs = [
        pair
        for concept in concepts
        for pair in zip(concept.prompts(), concept.anchors(default_anchor(concept)), strict=True)
    ]
    first, empty = model.encode([pairs[0][0]]), model.encode([""])
    key = Key(first.states[0, first.last[0]], config.rows, config.key_lr, config.seed)

    def recovery(step: Step, z: Noisy, p: Tensor, goals: Sequence[tuple[Text, Tensor]]) -> Tensor:
        with step.edited():
            terms = [
                apart(model, step.predict(z, text.behind(p)), goal, z.timestep, config.loss_in) for text, goal in goals
            ]
        return torch.stack(terms).mean()

    def loss(step: Step) -> Tensor:
        c, a = (model.encode([prompt]) for prompt in step.pick(pairs))
        z = roll(step, c, config)
        with torch.no_grad():
            target = step.predict(z, a)
            goals = [(text, step.predict(z, text)) for text in (c, empty)]
        with step.edited():
            (gradient,) = torch.autograd.grad(recovery(step, z, key.rows, goals), [key.rows])
        key.descend(gradient)
        with step.edited():
            hidden = apart(model, step.predict(z, c), target, z.timestep, config.loss_in)
        recovered = recovery(step, z, key.rows.detach(), goals)
        return hidden + config.recover * recovered + retained(step, config.keep or (), config)

    held = holder(weights_of(model, config.where), config.rank, config.seed)
    erasure = trained_erasure(model, "kpop", concepts, config, held, loss, kept=key)
    return keyed_delta(erasure, key.rows)
