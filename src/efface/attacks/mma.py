"""MMA: words whose pooled text is that of the prompt, by greedy coordinate gradient (Yang et al., CVPR 2024, arXiv 2311.17516)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.base import Attack, AttackConfig, never
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.attacks.vocabulary import Words
    from efface.io.checkpoint import State
    from efface.models.model import Model, Text


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of MMA's textual attack; defaults are the paper's."""

    length: int = 20
    """Words of the prompt that is looked for (paper: 20)."""
    iterations: int = 1000
    """(paper: 1000)"""
    candidates: int = 512
    """Prompts tried in a step, each with one word exchanged (paper: 512)."""
    best: int = 256
    """Words considered for each place: those whose gradient promises most (paper: 256)."""
    vocabulary: Literal["words", "all"] = "all"
    """All tokens, as published, or only whole words, so that what is found can be typed."""

    def __post_init__(self) -> None:
        if min(self.length, self.iterations, self.candidates, self.best) < 1:
            raise UsageError("length, steps, candidates and best must be at least 1.")


BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"vocabulary": "words", "length": 8, "iterations": 60, "candidates": 64, "best": 64},
    "quick": {"vocabulary": "words", "length": 8, "iterations": 15, "candidates": 32, "best": 64},
}


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Minimise 1 − cos(pooled(ids), pooled(prompt)), one exchanged word a step; the best ever is kept aside."""
    import torch

    from efface.attacks.base import Candidate, Proposal

    words = problem.words(config.vocabulary)
    room = problem.original.model.max_tokens
    if config.length > room:
        raise UsageError(f"length is {config.length}; expected at most the {room} tokens that the model reads.")
    with problem.original.attached() as model:
        goals = pooled(model.encode([t.prompt for t in problem.samples]))
    shape = (config.length,)
    if saved is None:
        first = [torch.randint(len(words.ids), shape, generator=g) for g in problem.generators(0)]
        prompts, start = torch.stack(first), 0
        best, least = prompts.clone(), torch.full((len(prompts),), float("inf"))
    else:
        prompts, best, least, start = saved["prompts"], saved["best"], saved["least"], int(saved["step"])
    shown = {max(1, config.iterations >> k) for k in range(4)}
    for step in range(start, config.iterations):
        with problem.original.attached() as model:
            for k, g in enumerate(problem.generators(1, step)):
                slope = gradient(model, words, prompts[k], goals[k])
                tried = exchanged(prompts[k], slope, config, g)
                found = losses(model, words, tried, goals[k])
                prompts[k] = tried[found.argmin()]
                if found.min() < least[k]:
                    best[k], least[k] = prompts[k], found.min()
        judged = [Candidate(tuple(words.ids[b].tolist())) for b in best] if step + 1 in shown else None
        state = {"prompts": prompts, "best": best, "least": least, "step": torch.tensor(step + 1)}
        yield Proposal(judged, state, (step + 1) / config.iterations)


def pooled(text: Text) -> Tensor:
    """One vector a prompt (batch width): the family's own, or the state at the end token."""
    import torch

    if text.pooled is not None:
        return text.pooled
    return text.states[torch.arange(len(text.last)), text.last + 1]


def gradient(model: Model, words: Words, prompt: Tensor, goal: Tensor) -> Tensor:
    """Slope of the loss towards every word at every place (length words)."""
    import torch
    import torch.nn.functional as F

    embeddings = words.table[prompt].clone().requires_grad_()
    text = model.encode_tokens([words.ids[prompt].tolist()], embeddings[None])
    loss = 1 - F.cosine_similarity(pooled(text).float(), goal.float()[None]).sum()
    return torch.autograd.grad(loss, embeddings)[0] @ words.table.T


def exchanged(prompt: Tensor, slope: Tensor, config: Config, generator: Generator) -> Tensor:
    """Prompts (candidates length) with one word each exchanged for one of the most promising of its place."""
    import torch

    count = config.candidates
    promising = (-slope).topk(min(config.best, slope.shape[1]), dim=1).indices.cpu()
    places = torch.randint(len(prompt), (count,), generator=generator)
    ranks = torch.randint(promising.shape[1], (count,), generator=generator)
    tried = prompt.repeat(count, 1)
    tried[torch.arange(count), places] = promising[places, ranks]
    return tried


def losses(model: Model, words: Words, prompts: Tensor, goal: Tensor, batch: int = 128) -> Tensor:
    """1 − cos(pooled, goal) of prompts (prompts length)."""
    import torch
    import torch.nn.functional as F

    with torch.no_grad():
        parts = [pooled(model.encode_tokens(words.ids[part].tolist())) for part in prompts.split(batch)]
        return 1 - F.cosine_similarity(torch.cat(parts).float(), goal.float()[None]).cpu()


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
    adaptive=never,  # it never sees the erased model's pictures, so that only the last prompt counts
)
