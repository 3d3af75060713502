"""SPM: one-dimensional adapters beside every layer of the denoiser's transformers, which act on a prompt as strongly as it is
near to their concept (Lyu et al., CVPR 2024, arXiv 2312.16145)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, check_weights
from efface.errors import UsageError
from efface.training.config import Rolling, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model, Text
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of SPM; defaults are its authors' but for the prompts that hold the model where it was."""

    iterations: int = 3000
    """Training steps for each concept (authors: 3000)."""
    rank: int | None = 1
    """Rank of the adapters (authors: 1)."""
    lr: float = 1e-4
    """Largest learning rate of AdamW (authors: 1e-4)."""
    warmup: int = 500
    """Steps in which it rises (authors: 500)."""
    cycles: int = 3
    """How often it falls to 0 after that, along half waves of the cosine (authors: 3)."""
    eta: float = 1.0
    """η, how far the target lies on the other side of the empty prompt (authors: 1)."""
    anchoring: float = 1000.0
    """Weight of leaving other text as it is (authors: 1000)."""
    anchors: Literal["neighbours", "noise"] = "neighbours"
    """What other text is: `neighbours`: the retained prompts, and noise where there are none; `noise`: states of the concept's length
    and Gaussian direction, as the authors have it, which lie as far from any prompt as from the concept."""
    sampled: int = 4
    """Other texts a step (authors: 4)."""
    transport: Literal["centred", "published"] = "centred"
    """What γ compares: text states without what the empty prompt and the retained ones have in common, or as they are, which for
    any two prompts are near."""
    draw_steps: int = 30
    """Sampler steps of a whole picture; latents are taken before one of them, drawn anew each step (authors: 30)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "anchoring")
        if self.rank is None:
            raise UsageError("rank is missing; adapters have one: expected at least 1.")
        if not 0 <= self.warmup < self.iterations or min(self.cycles, self.sampled) < 1:
            raise UsageError(
                f"warmup, cycles and sampled are {self.warmup}, {self.cycles} and {self.sampled}; expected fewer steps of warm-up "
                f"than the {self.iterations}, and at least 1 of the others."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A roll, a target of two texts and an output; of other texts two outputs each."""
        count = 1 + self.sampled
        return self.each_step(forward=self.rolled + 1 + count, back=count, together=count).times(len(concepts))


PUBLISHED: Mapping[str, Any] = {"anchors": "noise", "transport": "published"}
"""The authors' numbers. Their code queries a timestep 32 to 42 of 1000 above that of its latents, and where it draws multiplies both
factors of an adapter by γ and adds factors of several concepts up before their product; that is not repeated: what acts is
Σ γᵢ Bᵢ Aᵢ."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = |ε(z, c) − [ε₀(z, ∅) − η (ε₀(z, c) − ε₀(z, ∅))]|² + λ mean |ε(z, ẽ) − ε₀(z, ẽ)|², ẽ other text, at latents z rolled
    under c by the edited model; each concept has adapters of its own, trained alone."""
    import torch

    from efface.erasures.gated_delta import GatedDelta
    from efface.erasures.transport import Transport
    from efface.training.groups import transformer_weights
    from efface.training.holders import LowRank, Turns
    from efface.training.latents import Noisy
    from efface.training.result import trained_erasure
    from efface.training.schedules import restarts
    from efface.training.targets import apart, mix
    from efface.training.terms import retained, roll

    weights, keep, empty = transformer_weights(model), config.keep or (), model.encode([""])
    rank = config.rank or 1
    held = Turns([LowRank(weights, rank, config.seed + i, narrow=True) for i in range(len(concepts))])

    def loss(step: Step) -> Tensor:
        held.turn = step.number // config.iterations
        c = model.encode([step.pick(concepts[held.turn].prompts())])
        with torch.no_grad(), step.edited():
            z = roll(step, c, config, by_edited=True)
        target = mix(model, z, [(c, -config.eta), (empty, 1 + config.eta)])
        with step.edited():
            erased = apart(model, step.predict(z, c), target, z.timestep, config.loss_in)
        other = _other(step, c, keep, config)
        several = Noisy(z.z.repeat(config.sampled, 1, 1, 1), z.timestep)
        with torch.no_grad():
            before = step.predict(several, other)
        with step.edited():
            after = step.predict(several, other)
        anchored = apart(model, after, before, z.timestep, config.loss_in)
        return erased + config.anchoring * anchored + retained(step, keep, config)

    def rate(number: int) -> float:
        return restarts(number % config.iterations, config.iterations, config.warmup, config.cycles)

    training: Any = {
        "optimiser": torch.optim.AdamW(held.parameters, lr=config.lr),
        "iterations": config.iterations * len(concepts),
        "schedule": rate,
    }
    trained = trained_erasure(model, "spm", concepts, config, held, loss, **training)
    names, prompts = [concept.name for concept in concepts], [concept.prompts() for concept in concepts]
    transport = Transport.of(model, names, prompts, centred=config.transport == "centred", keep=keep)
    return GatedDelta(provenance=trained.provenance, deltas=trained.deltas, transport=transport)


def _other(step: Step, c: Text, keep: Sequence[str], config: Config) -> Text:
    """Other text (`sampled` prompts): retained prompts, or noise of 0.8 to 1.2 times the length of the concept's states, accepted with
    probability 1 − cos, states and pooled text apart."""
    if keep and config.anchors == "neighbours":
        return step.model.encode([step.pick(keep) for _ in range(config.sampled)])
    text = c.repeat(config.sampled)
    drawn = {"states": _noise(step, text.states)}
    if text.pooled is not None:
        drawn["pooled"] = _noise(step, text.pooled)
    return text._replace(**drawn)


def _noise(step: Step, like: Tensor) -> Tensor:
    """Gaussian directions for every row (batch …) of some states, of about their length."""
    import torch

    rows = []
    for row in like.float():
        while True:
            noise = torch.randn(row.shape, generator=step.random).to(row.device)
            cosine = (noise * row).sum() / (noise.norm() * row.norm())
            if torch.rand((), generator=step.random) < 1 - cosine.cpu():
                break
        length = 0.8 + 0.4 * torch.rand((), generator=step.random).item()
        rows.append(noise / noise.norm() * row.norm() * length)
    return torch.stack(rows).to(like.dtype)
