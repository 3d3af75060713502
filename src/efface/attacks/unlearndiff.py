"""UnlearnDiffAtk: words with which the erased model denoises the original's picture (Zhang et al., ECCV 2024, 2310.11868)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.base import Attack, AttackConfig
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of UnlearnDiffAtk; defaults are the paper's."""

    length: int | None = None
    """k, words put beside the prompt (paper: 3 for objects, 5 for all else)."""
    place: Literal["prefix", "suffix"] = "prefix"
    """Before the prompt, as published, or after it: a model whose captions all begin alike reads nothing behind a prefix."""
    timesteps: int = 50
    """Timesteps, one after the other from the least noisy, as in the authors' code (paper: 50)."""
    iterations: int = 40
    """Gradient steps at each (paper: 40)."""
    lr: float = 0.01
    """Learning rate of Adam (paper: 0.01)."""
    weight_decay: float = 0.1
    """Weight decay of Adam (paper: 0.1)."""
    clip: float | None = 1.0
    """Largest entry of the gradient that the words drawn hand to the points of the simplex (authors' code: 1; not in the paper);
    None leaves it as it is."""
    vocabulary: Literal["words", "all"] = "all"
    """All tokens, as published, or only whole words, so that what is found can be typed."""

    def __post_init__(self) -> None:
        if min(self.timesteps, self.iterations, self.length or 1) < 1:
            raise UsageError("length, timesteps and iterations must be at least 1.")
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"clip is {self.clip}; expected a number above 0, or None.")


SMALL: dict[str, Any] = {"vocabulary": "words", "place": "suffix", "length": 3, "clip": None}
BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": SMALL | {"timesteps": 10, "iterations": 20, "lr": 0.05},
    "quick": SMALL | {"timesteps": 4, "iterations": 10, "lr": 0.1},
}


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Minimise |target − ε(z_t, t, words + prompt)|² over points of the simplex, one for each word.

    Words are drawn from the points going forward; gradients reach the points themselves. After each timestep the likeliest
    words are tried.
    """
    import torch

    from efface.attacks.base import Candidate, Proposal
    from efface.attacks.simplex import onto_simplex, sampled
    from efface.io.checkpoint import optimizer_state, restore_optimizer
    from efface.models.losses import denoising_loss

    words, table = problem.words(config.vocabulary), problem.model.token_table().float()
    k = config.length or (3 if problem.concept.kind == "object" else 5)
    room = problem.model.max_tokens - k
    if room < 1:
        raise UsageError(
            f"length is {k}; the model reads {problem.model.max_tokens} tokens, and the prompt needs some."
        )
    prompts = [ids[:room] for ids in problem.contents()]

    own, first = [table[ids] for ids in prompts], config.place == "prefix"

    def beside(drawn: Tensor) -> list[list[int]]:
        """The prompts' tokens, and the words drawn for them (prompts k), in their place."""
        rows = zip(words.ids[drawn.cpu()].tolist(), prompts, strict=True)
        return [[*new, *ids] if first else [*ids, *new] for new, ids in rows]

    # The middle of the simplex, as the authors' code has it: no word is preferred.
    points = torch.full((len(prompts), k, len(words.ids)), 1 / len(words.ids), device=table.device).requires_grad_()
    optimiser = torch.optim.Adam([points], lr=config.lr, weight_decay=config.weight_decay)
    begin = 0
    if saved is not None:
        restore_optimizer(optimiser, saved)
        begin = int(saved["level"])
    for number, timestep in enumerate(problem.timesteps(config.timesteps)):
        if number < begin:
            continue
        with problem.erased.attached() as model:
            for step in range(config.iterations):
                hot = sampled(points, problem.generators(1, number, step), config.clip)
                soft = [torch.cat([h, o] if first else [o, h]) for h, o in zip(hot @ words.table, own, strict=True)]
                padded = torch.nn.utils.rnn.pad_sequence(soft, batch_first=True)
                text = model.encode_tokens(beside(hot.argmax(-1)), padded)
                loss = denoising_loss(model, problem.latents, problem.randn(2, number, step), timestep, text).sum()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                points.data = onto_simplex(points.data)
        found = [Candidate(tuple(ids)) for ids in beside(points.argmax(-1))]
        state = optimizer_state(optimiser) | {"level": torch.tensor(number + 1)}
        yield Proposal(found, state, (number + 1) / config.timesteps)


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
)
