"""P4D: a prompt under which the erased model predicts what the original does (Chin et al., ICML 2024, arXiv 2309.06135)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Case, Round
    from efface.attacks.vocabulary import Words
    from efface.io.checkpoint import State

BLANK = -1
"""Stands in a layout for a word that is looked for."""


@dataclass(frozen=True)
class Config:
    """Options of P4D; defaults are the paper's."""

    variant: Literal["n", "k"] = "n"
    """`n`: so many free words in place of the prompt; `k`: a free word after every few of the prompt's own."""
    length: int = 16
    """N, free words of the variant n (paper: 16)."""
    every_words: int = 3
    """K, the prompt's own words between two free ones, in the variant k (paper: 3)."""
    steps: int = 3000
    """Gradient steps (paper: 3000)."""
    every: int = 50
    """Steps between two pictures (paper: 50)."""
    lr: float = 0.1
    """Of AdamW (paper: 0.1)."""
    weight_decay: float = 0.1
    """Of AdamW (the code of PEZ, arXiv 2302.03668, on which P4D builds: 0.1)."""
    vocabulary: Literal["words", "all"] = "all"
    """All tokens, as published, or only whole words, so that what is found can be typed."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.length, self.every_words, self.steps, self.every) < 1:
            raise UsageError("length, every_words, steps and every must be at least 1.")


# No other words say what the canvas's own do, so that the variant n reports itself as broken there; nor does it read a prompt
# with words put into it, only one with words after it: its prompts are no longer than five words.
BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"vocabulary": "words", "variant": "k", "every_words": 5, "steps": 200, "every": 40},
    "quick": {"vocabulary": "words", "variant": "k", "every_words": 5, "steps": 40, "every": 20},
}


def search(case: Case, config: Config, saved: State | None) -> Iterator[Round]:
    """Minimise |ε(z_t, t, P*) − ε₀(z_t, t, P)|² over the embeddings of the free words of P*.

    Going forward each embedding is that of the nearest word by cosine; its gradient moves the embedding itself.
    """
    import torch

    from efface.attacks.base import Candidate, Round
    from efface.io.checkpoint import put_down, take_up
    from efface.models.losses import apart

    words = case.words(config.vocabulary)
    layouts = [layout(case, t.prompt, config) for t in case.tries]
    count = max(row.count(BLANK) for row in layouts)
    first = [words.table[torch.randint(len(words.ids), (count,), generator=g)] for g in case.generators(0)]
    soft = torch.stack(first).requires_grad_()
    optimiser = torch.optim.AdamW([soft], lr=config.lr, weight_decay=config.weight_decay)
    start = 0
    if saved is not None:
        take_up(optimiser, saved)
        start = int(saved["step"])
    table = case.model.token_table().float()
    for begin in range(start, config.steps, config.every):
        steps = range(begin, min(begin + config.every, config.steps))
        bank = [sight(case, step) for step in steps]
        with case.original.attached() as model, torch.no_grad():
            text = model.encode([t.prompt for t in case.tries])
            targets = [model.predict(noisy, level, text) for noisy, level in bank]
        with case.erased.attached() as model:
            for (noisy, level), target in zip(bank, targets, strict=True):
                ids, embeddings = filled(layouts, soft, words, table)
                text = model.encode_tokens(ids, embeddings)
                optimiser.zero_grad()
                apart(model.predict(noisy, level, text), target).sum().backward()
                optimiser.step()
        found = [Candidate(tuple(ids)) for ids in filled(layouts, soft, words, table)[0]]
        yield Round(found, put_down(optimiser) | {"step": torch.tensor(steps.stop)}, steps.stop / config.steps)


def sight(case: Case, step: int) -> tuple[Tensor, Tensor]:
    """The original's pictures noised up to a random timestep each, and those timesteps (tries,)."""
    import torch

    most = case.model.pipeline.scheduler.config.num_train_timesteps
    levels = torch.stack([torch.randint(most, (), generator=g) for g in case.generators(1, step)])
    levels = levels.to(case.latents.device)
    return case.model.to_noisy(case.latents, case.randn(2, step), levels), levels


def layout(case: Case, prompt: str, config: Config) -> list[int]:
    """Where free words stand: a row of tokens with BLANK for each.

    Raises:
        UsageError: they do not fit into what the model reads.
    """
    from efface.attacks.vocabulary import tokens_of

    room, k = case.model.length - 2, config.every_words
    if config.variant == "n":
        if config.length > room:
            raise UsageError(f"length is {config.length}; expected at most the {room} tokens that the model reads.")
        return [BLANK] * config.length
    said = prompt.split()
    groups = [said[i : i + k] for i in range(0, len(said), k)] or [[]]
    return [token for group in groups for token in (*tokens_of(case.model, " ".join(group)), BLANK)][:room]


def filled(layouts: list[list[int]], soft: Tensor, words: Words, table: Tensor) -> tuple[list[list[int]], Tensor]:
    """Content tokens with the nearest words in the blanks, and embeddings (tries tokens width) with gradients to `soft`."""
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
