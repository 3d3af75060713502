"""P4D: a prompt under which the erased model predicts what the original does (Chin et al., ICML 2024, arXiv 2309.06135)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.base import Attack, AttackConfig
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.attacks.vocabulary import Words
    from efface.io.checkpoint import State

BLANK = -1
"""Stands in a layout for a word that is looked for."""


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of P4D; defaults are the paper's."""

    variant: Literal["n", "k"] = "n"
    """`n`: so many free words in place of the prompt; `k`: a free word after every few of the prompt's own."""
    length: int = 16
    """N, free words of the variant n (paper: 16)."""
    every_words: int = 3
    """K, the prompt's own words between two free ones, in the variant k (paper: 3)."""
    iterations: int = 3000
    """Gradient steps (paper: 3000)."""
    every: int = 50
    """Steps between two pictures (paper: 50)."""
    lr: float = 0.1
    """Learning rate of AdamW (paper: 0.1)."""
    weight_decay: float = 0.1
    """Weight decay of AdamW (the code of PEZ, arXiv 2302.03668, on which P4D builds: 0.1)."""
    vocabulary: Literal["words", "all"] = "all"
    """All tokens, as published, or only whole words, so that what is found can be typed."""

    def __post_init__(self) -> None:
        if min(self.length, self.every_words, self.iterations, self.every) < 1:
            raise UsageError("length, every_words, steps and every must be at least 1.")


# No other words say what the canvas's own do, so that the variant n reports itself as broken there; nor does it read a prompt
# with words put into it, only one with words after it: its prompts are no longer than five words.
BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"vocabulary": "words", "variant": "k", "every_words": 5, "iterations": 200, "every": 40},
    "quick": {"vocabulary": "words", "variant": "k", "every_words": 5, "iterations": 40, "every": 20},
}


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Minimise |ε(z_t, t, P*) − ε₀(z_t, t, P)|² over the embeddings of the free words of P*.

    Going forward each embedding is that of the nearest word by cosine; its gradient moves the embedding itself.
    """
    import torch

    from efface.attacks.base import Candidate, Proposal
    from efface.io.checkpoint import optimizer_state, restore_optimizer
    from efface.models.losses import mse

    words = problem.words(config.vocabulary)
    layouts = [layout(problem, t.prompt, config) for t in problem.samples]
    count = max(row.count(BLANK) for row in layouts)
    first = [words.table[torch.randint(len(words.ids), (count,), generator=g)] for g in problem.generators(0)]
    soft = torch.stack(first).requires_grad_()
    optimiser = torch.optim.AdamW([soft], lr=config.lr, weight_decay=config.weight_decay)
    start = 0
    if saved is not None:
        restore_optimizer(optimiser, saved)
        start = int(saved["step"])
    table = problem.model.token_table().float()
    for begin in range(start, config.iterations, config.every):
        steps = range(begin, min(begin + config.every, config.iterations))
        bank = [noised_batch(problem, step) for step in steps]
        with problem.original.attached() as model, torch.no_grad():
            text = model.encode([t.prompt for t in problem.samples])
            targets = [model.predict(noisy, level, text) for noisy, level in bank]
        with problem.erased.attached() as model:
            for (noisy, level), target in zip(bank, targets, strict=True):
                ids, embeddings = filled(layouts, soft, words, table)
                text = model.encode_tokens(ids, embeddings)
                optimiser.zero_grad()
                mse(model.predict(noisy, level, text), target).sum().backward()
                optimiser.step()
        found = [Candidate(tuple(ids)) for ids in filled(layouts, soft, words, table)[0]]
        yield Proposal(
            found, optimizer_state(optimiser) | {"step": torch.tensor(steps.stop)}, steps.stop / config.iterations
        )


def noised_batch(problem: Problem, step: int) -> tuple[Tensor, Tensor]:
    """The original's pictures noised up to a random timestep each, and those timesteps (samples,)."""
    import torch

    most = problem.model.num_train_timesteps
    levels = torch.stack([torch.randint(most, (), generator=g) for g in problem.generators(1, step)])
    levels = levels.to(problem.latents.device)
    return problem.model.to_noisy(problem.latents, problem.randn(2, step), levels), levels


def layout(problem: Problem, prompt: str, config: Config) -> list[int]:
    """Where free words stand: a row of tokens with BLANK for each.

    Raises:
        UsageError: they do not fit into what the model reads.
    """
    from efface.attacks.vocabulary import tokens_of

    room, k = problem.model.max_tokens, config.every_words
    if config.variant == "n":
        if config.length > room:
            raise UsageError(f"length is {config.length}; expected at most the {room} tokens that the model reads.")
        return [BLANK] * config.length
    said = prompt.split()
    groups = [said[i : i + k] for i in range(0, len(said), k)] or [[]]
    return [token for group in groups for token in (*tokens_of(problem.model, " ".join(group)), BLANK)][:room]


def filled(layouts: list[list[int]], soft: Tensor, words: Words, table: Tensor) -> tuple[list[list[int]], Tensor]:
    """Content tokens with the nearest words in the blanks, and embeddings (samples tokens width) with gradients to `soft`."""
    import torch

    from efface.attacks.objectives import through

    nearest = words.nearest(soft.detach())
    hard = through(words.table[nearest], soft)
    ids, rows = [], []
    for row, found, vectors in zip(layouts, words.ids[nearest.cpu()].tolist(), hard, strict=True):
        blanks = [i for i, token in enumerate(row) if token == BLANK]
        known = [token if token != BLANK else 0 for token in row]
        for place, token in zip(blanks, found, strict=False):
            known[place] = token
        ids.append(known)
        rows.append(table[known].index_put((torch.tensor(blanks, device=table.device),), vectors[: len(blanks)]))
    return ids, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
)
