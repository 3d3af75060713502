"""PUND: a word found on the original model, which transfers to erased ones (Han et al., 2024, arXiv 2404.19382).

The erased model is never asked. Whenever a direction has been found, it is erased from the copy that is searched, so that
the search goes on to others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.attacks.base import Attack, AttackConfig, in_embeddings, never
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.closed_form.maps import LowRankMap
    from efface.erasures.switch import ModelVariant
    from efface.io.checkpoint import State
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options of PUND; defaults are the paper's."""

    iterations: int = 3000
    """Gradient steps, the paper's epochs (paper: 3000)."""
    every: int = 200
    """Steps between two erasures from the copy (paper: 200)."""
    lr: float = 0.1
    """Learning rate of AdamW (paper: 0.1)."""
    images: int = 16
    """The original model's pictures of the concept."""
    batch: int = 1
    """Pictures in one gradient step."""
    ridge: float = 0.1
    """λ of the edit that erases a direction from the copy."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.every, self.images, self.batch) < 1:
            raise UsageError("steps, every, images and batch must be at least 1.")


BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"iterations": 150, "every": 50, "images": 8, "batch": 4},
    "quick": {"iterations": 40, "every": 20, "images": 4, "batch": 2},
}


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Minimise |target − ε₀(z_t, t, prompt without the concept + v)|², divided by its own value, over one embedding v."""
    import torch

    from efface.attacks.base import Proposal
    from efface.closed_form.maps import LowRankMap
    from efface.io.checkpoint import optimizer_state, restore_optimizer
    from efface.models.losses import denoising_loss
    from efface.training.images import draw_concept_images

    with problem.original.attached() as model:
        pictures = draw_concept_images(model, problem.concept.prompts(), config.images, problem.settings)
    plain = [without(problem, p) for p in pictures.prompts]
    table = problem.original.model.token_table().float()
    v = table.mean(0).clone().requires_grad_()
    optimiser = torch.optim.AdamW([v], lr=config.lr)
    copy, start = (
        LowRankMap.identity(problem.original.model.projection_inputs(problem.original.model.encode([""])).shape[-1]),
        0,
    )
    if saved is not None:
        restore_optimizer(optimiser, saved)
        copy, start = LowRankMap(saved["u"], saved["v"]), int(saved["step"])
    for begin in range(start, config.iterations, config.every):
        steps = range(begin, min(begin + config.every, config.iterations))
        with edited(problem.original, problem, copy).attached() as model:
            for step in steps:
                noised_batch = pictures.batch(config.batch, config.seed, step)
                rows = [plain[i] for i in noised_batch.members]
                text = model.encode_tokens(*suffixed(table, rows, v))
                loss = denoising_loss(
                    model, noised_batch.clean, noised_batch.noise, noised_batch.timesteps, text
                ).mean()
                optimiser.zero_grad()
                (loss / loss.detach()).backward()
                optimiser.step()
        found = [candidate(table, without(problem, t.prompt), v.detach()) for t in problem.samples]
        with problem.original.attached() as model:
            copy = copy.then(erased_from(model, copy, table, plain, v.detach(), config.ridge))
        state = optimizer_state(optimiser) | {"u": copy.u, "v": copy.v, "step": torch.tensor(steps.stop)}
        yield Proposal(found, state, steps.stop / config.iterations)


def without(problem: Problem, prompt: str) -> list[int]:
    """A prompt's tokens with the concept's words removed and room for one more."""
    from efface.attacks.vocabulary import tokens_of

    return tokens_of(problem.original.model, problem.without_concept(prompt))[: problem.original.model.max_tokens - 1]


def suffixed(table: Tensor, rows: list[list[int]], v: Tensor) -> tuple[list[list[int]], Tensor]:
    """Prompts that end in v: content tokens (any token stands for it), and embeddings (batch tokens width)."""
    import torch

    embeddings = [torch.cat([table[row], v[None]]) for row in rows]
    return [[*row, 0] for row in rows], torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)


def candidate(table: Tensor, row: list[int], v: Tensor) -> Any:
    """A sample's prompt that ends in v."""
    from efface.attacks.base import Candidate

    ids, embeddings = suffixed(table, [row], v)
    return Candidate(tuple(ids[0]), embeddings[0])


def edited(original: ModelVariant, problem: Problem, map_: LowRankMap) -> ModelVariant:
    """The original with a map of its text states: the copy that is searched."""
    from efface.erasures.provenance import provenance
    from efface.erasures.switch import ModelVariant
    from efface.erasures.textmap import TextMap

    if not map_.u.shape[1]:
        return original
    origin = provenance(original.model, "pund", {}, [problem.concept], ())
    return ModelVariant(original.model, (*original.erasures, TextMap.of(origin, *map_)))


def erased_from(
    model: Model, copy: LowRankMap, table: Tensor, rows: list[list[int]], v: Tensor, ridge: float
) -> LowRankMap:
    """The ridge edit that takes the states of v, and of what follows it, to those of the prompts without it."""
    import torch

    from efface.closed_form.ridge import RowPairs

    with torch.no_grad():
        spoken = model.projection_inputs(model.encode_tokens(*suffixed(table, rows, v)))
        silent = model.projection_inputs(model.encode_tokens(rows))
    ends = [len(row) + 1 for row in rows]
    pairs = RowPairs.gather((s[end:], t[end:]) for s, t, end in zip(spoken, silent, ends, strict=True))
    kept = torch.zeros(len(copy.u), len(copy.u), dtype=torch.float64)
    return pairs.edit(kept, erase=1.0, preserve=0.0, ridge=ridge)


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
    per="concept",
    finds=in_embeddings,
    adaptive=never,  # it never sees the erased model's pictures, so that only the last embedding counts
)
