"""Concept inversion: a new word learnt on the erased model from pictures of the concept (CCE: Pham et al., ICLR 2024,
arXiv 2308.01508; textual inversion: Gal et al., ICLR 2023, arXiv 2208.01618)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.attacks.base import Attack, AttackConfig, in_embeddings, never
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State
    from efface.models.model import Model
    from efface.training.images import ConceptImages, NoisedBatch


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of concept inversion; defaults are CCE's."""

    images: int = 25
    """The original model's pictures of the concept (paper: 25)."""
    iterations: int = 5000
    """(paper: 5000)"""
    lr: float = 5e-3
    """Learning rate of AdamW (paper: 5e-3)."""
    batch: int = 1
    """Pictures a step."""
    looks: int = 4
    """Times at which the word so far is tried, each after twice as many steps."""

    def __post_init__(self) -> None:
        if min(self.images, self.iterations, self.batch, self.looks) < 1:
            raise UsageError("images, steps, batch and looks must be at least 1.")


BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"images": 16, "iterations": 400, "lr": 1e-2, "batch": 4},
    "quick": {"images": 8, "iterations": 40, "lr": 5e-2, "batch": 2, "looks": 2},
}


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Minimise |target − ε(z_t, t, prompt with v in the concept's place)|² over the embedding v of one new word."""
    import torch

    from efface.attacks.base import Candidate, Proposal
    from efface.io.checkpoint import optimizer_state, restore_optimizer
    from efface.models.losses import denoising_loss
    from efface.training.images import draw_concept_images
    from efface.training.search import around, inserted

    with problem.original.attached() as model:
        pictures = draw_concept_images(model, problem.concept.prompts(), config.images, problem.settings)
    table = problem.model.token_table().float()
    v = table.mean(0).clone().requires_grad_()
    optimiser = torch.optim.AdamW([v], lr=config.lr)
    start = 0
    if saved is not None:
        restore_optimizer(optimiser, saved)
        start = int(saved["step"])
    stops = sorted({max(1, config.iterations >> k) for k in range(config.looks)})
    for begin, stop in zip([0, *stops], stops, strict=False):
        if stop <= start:
            continue
        noised_batches = {
            step: pictures.batch(config.batch, config.seed, step) for step in range(max(begin, start), stop)
        }
        guarded = problem.settings.get("negative") is not None
        goals = (
            guided_goals(problem, pictures, list(noised_batches.values())) if guarded else [None] * len(noised_batches)
        )
        with problem.erased.attached() as model:
            for (_, noised_batch), goal in zip(noised_batches.items(), goals, strict=True):
                rows = [around(model, pictures.prompts[i], problem.concept.name) for i in noised_batch.members]
                text = model.encode_tokens(*inserted(table, rows, v[None]))
                if goal is None:
                    loss = denoising_loss(model, noised_batch.clean, noised_batch.noise, noised_batch.timesteps, text)
                else:
                    loss = guided_loss(problem, model, noised_batch, text, goal)
                optimiser.zero_grad()
                loss.mean().backward()
                optimiser.step()
        found = []
        for t in problem.samples:
            row = around(problem.model, t.prompt, problem.concept.name)
            ids, embeddings = inserted(table, [row], v.detach()[None])
            found.append(Candidate(tuple(ids[0]), embeddings[0]))
        yield Proposal(found, optimizer_state(optimiser) | {"step": torch.tensor(stop)}, stop / config.iterations)


def guided_goals(problem: Problem, pictures: ConceptImages, noised_batches: list[NoisedBatch]) -> list[Tensor]:
    """What the original model draws under guidance, e_"" + g (e_c − e_""), at every noised_batch."""
    import torch

    goals = []
    with problem.original.attached() as model, torch.no_grad():
        for noised_batch in noised_batches:
            noisy = model.to_noisy(noised_batch.clean, noised_batch.noise, noised_batch.timesteps)
            text = model.encode([pictures.prompts[i] for i in noised_batch.members])
            nothing = model.predict(noisy, noised_batch.timesteps, model.encode_negative(None).repeat(len(noisy)))
            goals.append(guided(problem, nothing, model.predict(noisy, noised_batch.timesteps, text)))
    return goals


def guided_loss(problem: Problem, model: Model, noised_batch: NoisedBatch, text: Any, goal: Tensor) -> Tensor:
    """With a negative prompt as a guard: |[e_neg + g (e_v − e_neg)] − goal|², so that v learns to get past it."""
    from efface.models.losses import mse

    noisy = model.to_noisy(noised_batch.clean, noised_batch.noise, noised_batch.timesteps)
    negative = model.encode_negative(problem.settings.get("negative")).repeat(len(noisy))
    guard = model.predict(noisy, noised_batch.timesteps, negative)
    return mse(guided(problem, guard, model.predict(noisy, noised_batch.timesteps, text)), goal)


def guided(problem: Problem, unconditional: Tensor, conditional: Tensor) -> Tensor:
    """Both predictions combined as when pictures are drawn."""
    return unconditional + problem.settings.get("guidance", 7.5) * (conditional - unconditional)


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
    per="concept",
    finds=in_embeddings,
    adaptive=never,  # it never sees pictures of the erased model, so that only the last word counts
)
