"""Ring-A-Bell: words whose text states are a prompt's plus a concept vector (Tsai et al., ICLR 2024, arXiv 2310.10012).

It never asks the erased model: only its text encoder's original is needed. `soft` feeds the sum itself to the denoiser
instead of looking for words, as the authors of RECE (arXiv 2407.12383) did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.base import Attack, AttackConfig
from efface.attacks.genetic import Odds, children, fitness_of
from efface.concepts.concept import default_anchor
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.concepts.concept import Concept
    from efface.concepts.sample import Finding
    from efface.io.checkpoint import State
    from efface.models.model import Model, Text


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of Ring-A-Bell; defaults are the paper's for nudity."""

    mode: Literal["discrete", "soft"] = "discrete"
    """`discrete`: words found by a genetic search; `soft`: the text states themselves."""
    strengths: tuple[float, ...] | None = None
    """η, how much of the concept vector is added (paper: 3 for nudity; RECE's authors: 0.9 for a style, fed softly). Of
    several, `soft` tries one after the other; `discrete` takes the first."""
    length: int = 16
    """K, words of the prompt that is looked for (paper: 16 for nudity)."""
    population: int = 200
    """Prompts alive at a time (paper: 200)."""
    generations: int = 3000
    """(paper: 3000)"""
    crossover: float = 0.5
    """Chance that a child has two parents (paper: 0.5)."""
    mutation: float = 0.25
    """Chance that one word of a child is replaced (paper: 0.25)."""
    vector: str | None = None
    """A .npy file with the concept vector (tokens width); by default the mean difference of the concept's prompts and its
    anchors'."""
    vocabulary: Literal["words", "all"] = "all"
    """All tokens, as published, or only whole words, so that what is found can be typed."""

    def __post_init__(self) -> None:
        if self.population < 4 or self.population % 2:
            raise UsageError(f"population is {self.population}; expected an even number of at least 4.")
        if self.length < 1 or self.generations < 1:
            raise UsageError("length and generations must be at least 1.")
        if self.strengths == ():
            raise UsageError("strengths is empty; expected one number or more.")


# On the canvas the text encoder knows every thing by words of its own, which no attack may use: no other words can say it,
# and `--mode discrete` reports itself as broken there. What is fed softly says it.
BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {
        "mode": "soft", "strengths": (1.0, 0.5, 1.5), "vocabulary": "words", "length": 6, "population": 60, "generations": 120,
    },
    "quick": {
        "mode": "soft", "strengths": (1.0, 0.5), "vocabulary": "words", "length": 6, "population": 40, "generations": 30,
    },
}  # fmt: skip


def adaptive(config: Config) -> bool:
    """Whether any of a sample's candidates may succeed (soft: several strengths), or only the last one counts (words)."""
    return config.mode == "soft"


def finds(config: Config) -> Finding:
    """Words, or text states where none are searched for."""
    return "states" if config.mode == "soft" else "words"


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Minimise |E(ids) − (E(p) + η ĉ)|² for every prompt p."""
    strengths = config.strengths or (published_strength(problem.concept),)
    with problem.original.attached() as model:
        targets = [shifted(model, problem, config.vector, strength) for strength in strengths]
    if config.mode == "soft":
        yield from _soft(problem, targets, saved)
    else:
        yield from _discrete(problem, config, targets[0].states, saved)


def _soft(problem: Problem, targets: list[Text], saved: State | None) -> Iterator[Proposal]:
    import torch

    from efface.attacks.base import Candidate, Proposal

    for number, target in enumerate(targets):
        if saved is not None and number < int(saved["number"]):
            continue
        pooled = [None] * len(problem.samples) if target.pooled is None else target.pooled
        rows = zip(problem.contents(), target.states, pooled, strict=True)
        found = [Candidate(tuple(ids), None, states, vector) for ids, states, vector in rows]
        yield Proposal(found, {"number": torch.tensor(number + 1)}, (number + 1) / len(targets))


def _discrete(problem: Problem, config: Config, target: Tensor, saved: State | None) -> Iterator[Proposal]:
    import torch

    from efface.attacks.base import Candidate, Proposal

    words = problem.words(config.vocabulary)
    half, shape = config.population // 2, (config.population, config.length)

    def distances(born: Tensor, parents: Tensor, known: Tensor) -> Tensor:
        """Distances of every sample's new prompts (samples born length) from its target (samples born)."""
        with problem.original.attached() as model:
            return torch.stack([
                fitness_of(b, p, k, lambda rows, t=t: distance(model, words.ids[rows], t))
                for b, p, k, t in zip(born, parents, known, target, strict=True)
            ])  # fmt: skip

    if saved is None:
        prompts = torch.stack([torch.randint(len(words.ids), shape, generator=g) for g in problem.generators(0)])
        fitness, start = distances(prompts, prompts[:, :0], torch.zeros(len(prompts), 0)), 0
    else:
        prompts, fitness, start = saved["prompts"], saved["fitness"], int(saved["generation"])
    shown = {max(1, config.generations >> k) for k in range(4)}
    for generation in range(start, config.generations):
        # Parents stay as they are, so the best ever is never lost.
        order = fitness.argsort(dim=1)[:, :half]
        parents, fitness = prompts.gather(1, order[..., None].expand(-1, -1, config.length)), fitness.gather(1, order)
        odds = Odds(config.crossover, config.mutation, len(words.ids))
        generators = problem.generators(generation + 1)
        born = torch.stack([children(p, half, odds, g) for p, g in zip(parents, generators, strict=True)])
        prompts = torch.cat([parents, born], dim=1)
        fitness = torch.cat([fitness, distances(born, parents, fitness)], dim=1)
        best = words.ids[prompts[torch.arange(len(prompts)), fitness.argmin(1)]].tolist()
        judged = [Candidate(tuple(ids)) for ids in best] if generation + 1 in shown else None
        state = {"prompts": prompts, "fitness": fitness, "generation": torch.tensor(generation + 1)}
        yield Proposal(judged, state, (generation + 1) / config.generations)


def distance(model: Model, ids: Tensor, target: Tensor, batch: int = 128) -> Tensor:
    """|E(ids) − target|² of content tokens (prompts length) over all positions (prompts,)."""
    import torch

    with torch.no_grad():
        parts = [model.encode_tokens(part.tolist()).states for part in ids.split(batch)]
        return torch.cat([(part - target).square().sum((1, 2)).float().cpu() for part in parts])


def shifted(model: Model, problem: Problem, path: str | None, strength: float) -> Text:
    """E(p) + η ĉ of every sample's prompt; ĉ from a file, where a path is given."""
    text = model.encode([t.prompt for t in problem.samples])
    if path is not None:
        return text._replace(states=text.states + strength * read_vector(path, text))
    vector = concept_vector(model, problem.concept)
    pooled = None if text.pooled is None or vector.pooled is None else text.pooled + strength * vector.pooled
    return text._replace(states=text.states + strength * vector.states, pooled=pooled)


def published_strength(concept: Concept) -> float:
    """η of the papers: 3 for explicit content, 0.9 for all else (given there for a style)."""
    return 3.0 if concept.kind == "explicit" else 0.9


def concept_vector(model: Model, concept: Concept) -> Text:
    """ĉ = mean over pairs of E(with) − E(without): the concept's prompts, and the prompts that take their place."""
    default = default_anchor(concept)
    with_, without = model.encode(concept.prompts()), model.encode(concept.anchors(default))
    pooled = None
    if with_.pooled is not None and without.pooled is not None:
        pooled = (with_.pooled - without.pooled).mean(0)
    return with_._replace(states=(with_.states - without.states).mean(0), pooled=pooled)


def read_vector(path: str, text: Text) -> Tensor:
    """A concept vector (tokens width) from a .npy file; raises EffaceError when it is none, or does not fit."""
    import numpy as np
    import torch

    try:
        values = torch.from_numpy(np.load(path, allow_pickle=False)).to(text.states)
    except (OSError, ValueError, TypeError) as error:
        raise EffaceError(f"{path} could not be read as a concept vector ({error}): expected a .npy file.") from error
    values = values.squeeze()
    if values.shape != text.states.shape[1:]:
        raise EffaceError(
            f"the concept vector in {path} is {tuple(values.shape)}; expected {tuple(text.states.shape[1:])}, this model's "
            "tokens and width."
        )
    return values


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
    adaptive=adaptive,
    finds=finds,
)
