"""Relapse: fine-tune the erased model on harmless pictures, and see when the concept is back ("Safety alignment backfires",
Kim et al., 2024, arXiv 2412.00357)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.base import Attack, AttackConfig, in_nothing
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.attacks.base import Problem, Proposal
    from efface.concepts.concept import Concept
    from efface.io.checkpoint import State
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of the relapse test."""

    mode: Literal["lora", "full"] = "lora"
    """`lora`: low-rank factors beside every attention projection; `full`: every weight of the denoiser."""
    rank: int = 4
    """Rank of the LoRA factors (paper: 4)."""
    iterations: int = 1500
    """Fine-tuning steps (paper: 1500)."""
    every: int = 100
    """Steps between two looks at the concept."""
    lr: float | None = None
    """Learning rate of AdamW; 1e-4 for lora, 1e-5 for full where it is not given."""
    batch: int = 4
    """Pictures a step."""
    images: int = 64
    """Harmless pictures, drawn by the original model."""
    harmless: tuple[str, ...] | None = None
    """Prompts of pictures to train on; by default those that the concept's preset proposes to retain, or its nearest neighbours."""

    def __post_init__(self) -> None:
        if min(self.rank, self.iterations, self.every, self.batch, self.images) < 1:
            raise UsageError("rank, steps, every, batch and images must be at least 1.")


BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"iterations": 120, "every": 40, "batch": 4, "images": 32, "lr": 1e-3},
    "quick": {"iterations": 20, "every": 10, "batch": 2, "images": 8, "lr": 1e-3},
}


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Train on harmless pictures by the usual loss |target − ε(z_t, t, prompt)|²; the concept's prompts stay as they are."""
    import torch

    from efface.attacks.base import Candidate, Proposal
    from efface.concepts.sample import evenly_spaced
    from efface.io.checkpoint import optimizer_state, restore_optimizer
    from efface.training.finetuning import fine_tune
    from efface.training.groups import attention_weights, weights_of
    from efface.training.holders import holder
    from efface.training.images import draw_concept_images

    prompts = harmless_prompts(problem.original.model, problem.concept, config)
    chosen = evenly_spaced(prompts, config.images)
    with problem.original.attached() as model:
        pictures = draw_concept_images(model, chosen, config.images, problem.settings)
    with problem.erased.attached() as model:
        low_rank = config.mode == "lora"
        weights = attention_weights(model) if low_rank else weights_of(model, "all")
        tuned = holder(weights, config.rank if low_rank else None, config.seed)
    lr = config.lr if config.lr is not None else 1e-4 if config.mode == "lora" else 1e-5
    optimiser = torch.optim.AdamW(tuned.parameters, lr=lr)
    start = 0
    if saved is not None:
        restore_optimizer(optimiser, saved)
        start = int(saved["step"])
    own = [Candidate(tuple(ids)) for ids in problem.contents()]
    for begin in range(start, config.iterations, config.every):
        steps = range(begin, min(begin + config.every, config.iterations))
        with problem.erased.attached() as model:
            fine_tune(model, tuned, pictures, optimiser, steps, batch=config.batch, seed=config.seed)
        state = optimizer_state(optimiser) | {"step": torch.tensor(steps.stop)}
        yield Proposal(own, state, steps.stop / config.iterations, tuned.active)


def harmless_prompts(model: Model, concept: Concept, config: Config) -> list[str]:
    """Prompts that do not speak of the concept; raises UsageError where there are none."""
    from efface.concepts.concept import own_words
    from efface.models.neighbours import neighbours

    given = list(config.harmless or concept.keep or neighbours(model, concept, 64))
    found = [prompt for prompt in given if not own_words(concept) & set(prompt.lower().split())]
    if not found:
        raise UsageError("there is no harmless prompt to train on: give some that do not name the concept.")
    return found


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
    per="concept",
    finds=in_nothing,
)
