"""DoCo: a discriminator must not tell what a concept's prompts predict from what an anchor's do, and no step may undo what the
anchor's pictures teach (Wu et al., AAAI 2025, arXiv 2405.15304)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError
from efface.training.config import Rolling, Where, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Rolling, Retaining):
    """Options of DoCo; defaults are its authors', with a true projection of gradients."""

    where: Where = "text"
    """Trained weights (authors: keys and values of cross-attention)."""
    iterations: int = 2000
    """Training steps, those of the warm-up included (authors: 2000)."""
    warmup: int = 1000
    """Steps at the beginning in which the discriminator alone is trained (authors: 1000)."""
    lr: float = 4.8e-5
    """Learning rate of AdamW, as it acts: the authors' code multiplies 6e-6 by the batch over all GPUs (8)."""
    critic_lr: float | None = None
    """Learning rate of the discriminator's Adam; by default the authors': 5e-4 for a style, 1e-4 for anything else."""
    strength: float = 1.0
    """λ, share of a conflict with the anchor's pictures that is taken out of a gradient (authors: 1)."""
    projection: Literal["true", "released"] = "true"
    """`true`: g − λ⟨g, k⟩/‖k‖² k for each tensor; `released`: as the authors' code has it, right only where ‖g‖ = 1."""
    levels: int = 1000
    """Pictures are noised to timesteps below this one (authors: 1000). Models that predict the noise give clean latents that grow
    with the noise, and at the noisiest levels the discriminator sees little else."""
    batch: int = 8
    """Pictures a step (authors: 8)."""
    images: int = 200
    """Pictures of anchor prompts that the model draws first (authors: 1000)."""
    draw_steps: int = 50
    """Sampler steps of those pictures."""
    guidance: float = 6.0
    """Guidance scale of those pictures."""
    clip: float = 1.0
    """Largest norm of the gradients (authors: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.batch, self.images, self.levels) < 1 or not 0 <= self.warmup < self.iterations:
            raise UsageError(
                f"batch, images, levels and warmup are {self.batch}, {self.images}, {self.levels} and {self.warmup}; expected at "
                f"least 1 of each, and a warm-up of fewer than the {self.iterations} iterations."
            )
        if not 0 <= self.strength <= 1 or self.clip <= 0 or (self.critic_lr is not None and self.critic_lr <= 0):
            raise UsageError(
                f"strength, clip and critic_lr are {self.strength}, {self.clip} and {self.critic_lr}; expected 0 to 1, and above 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """What the discriminator compares, and what the anchor is taught; neither has a way back while the discriminator warms up."""
        share = 1 - self.warmup / self.iterations
        work = self.each_step(forward=self.batch, back=2 * self.batch, together=self.batch)
        return work._replace(forward=work.forward + self.batch * self.warmup, back=work.back * share)


PUBLISHED: Mapping[str, Any] = {"images": 1000, "projection": "released"}
"""The authors' numbers. Their code leaves the generator's gradients in the discriminator, which then also learns to be deceived;
that is not repeated."""


def settle(config: Config, concepts: Sequence[Concept]) -> Config:
    """The options with the learning rate of the discriminator filled in."""
    style = all(concept.kind == "style" for concept in concepts)
    return replace(config, critic_lr=config.critic_lr or (5e-4 if style else 1e-4))


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures of anchor prompts on which it trains."""
    return config.images


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """D learns D(x̂₀(p_a)) → 0 and D(x̂(p_c)) → 1, x̂ the clean latents predicted for a noised picture of the anchor's prompt p_a;
    the model steps along ∇BCE(D(x̂(p_c)), 0), of every tensor without what opposes ∇|ε(z, p_a) − ξ|²."""
    import torch

    from efface.training.discriminator import Critic
    from efface.training.filters import clipped, without_conflict, without_direction
    from efface.training.groups import weights_of
    from efface.training.holders import holder
    from efface.training.images import draw_concept_images, noised, pairs_of
    from efface.training.result import trained_erasure
    from efface.training.targets import apart
    from efface.training.terms import retained

    config = settle(config, concepts)
    pairs = pairs_of(concepts, config.images)
    settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
    album = draw_concept_images(model, [anchor for anchor, _ in pairs], config.images, settings)
    album = album._replace(num_train_timesteps=min(album.num_train_timesteps, config.levels))
    critic = Critic(album.latents[0].shape, float(config.critic_lr or 0), config.seed, album.latents.device)
    project = without_conflict if config.projection == "true" else without_direction

    def loss(step: Step) -> Tensor:
        x = album.batch(config.batch, config.seed, step.number)
        z, xi = noised(model, x)
        p_a, p_c = (model.encode(side) for side in zip(*(pairs[i % len(pairs)] for i in x.members), strict=True))
        with torch.no_grad():
            x_a = model.to_clean(step.predict(z, p_a), z.z, z.timestep)
        training = step.number >= config.warmup
        with step.edited(), torch.set_grad_enabled(training):
            x_c = model.to_clean(step.predict(z, p_c), z.z, z.timestep)
        if not training:
            return critic.learn(x_a, x_c)
        deceived = critic.apart(x_c, False) + retained(step, config.keep or (), config)
        g_c = clipped(step.gradients(deceived), config.clip)
        with step.edited():
            taught = apart(model, step.predict(z, p_a), xi, z.timestep, config.loss_in)
        g_a = step.gradients(taught)
        step.descend_along([project(c, a, config.strength) for c, a in zip(g_c, g_a, strict=True)])
        critic.learn(x_a, x_c)
        return deceived.detach()

    held = holder(weights_of(model, config.where), config.rank, config.seed)
    optimiser = torch.optim.AdamW(held.parameters, lr=config.lr, weight_decay=0.0)
    return trained_erasure(model, "doco", concepts, config, held, loss, optimiser=optimiser, kept=critic)
