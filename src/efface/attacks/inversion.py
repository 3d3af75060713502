"""Concept inversion: a new word learnt on the erased model from pictures of the concept (CCE: Pham et al., ICLR 2024,
arXiv 2308.01508; textual inversion: Gal et al., ICLR 2023, arXiv 2208.01618)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.attacks.base import Case, Round
    from efface.io.checkpoint import State
    from efface.models.model import Model
    from efface.training.images import Album, Sight

SCOPE = "concept"


@dataclass(frozen=True)
class Config:
    """Options of concept inversion; defaults are CCE's."""

    images: int = 25
    """The original model's pictures of the concept (paper: 25)."""
    steps: int = 5000
    """(paper: 5000)"""
    lr: float = 5e-3
    """Of AdamW (paper: 5e-3)."""
    batch: int = 1
    """Pictures a step."""
    looks: int = 4
    """Times at which the word so far is tried, each after twice as many steps."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.images, self.steps, self.batch, self.looks) < 1:
            raise UsageError("images, steps, batch and looks must be at least 1.")


BUDGETS: dict[str, dict[str, Any]] = {
    "canvas": {"images": 16, "steps": 400, "lr": 1e-2, "batch": 4},
    "quick": {"images": 8, "steps": 40, "lr": 5e-2, "batch": 2, "looks": 2},
}


def adaptive(config: Config) -> bool:
    """Only the last word counts: it never sees pictures of the erased model."""
    return False


def search(case: Case, config: Config, saved: State | None) -> Iterator[Round]:
    """Minimise |target − ε(z_t, t, prompt with v in the concept's place)|² over the embedding v of one new word."""
    import torch

    from efface.attacks.base import Candidate, Round
    from efface.io.checkpoint import put_down, take_up
    from efface.models.losses import denoising_loss
    from efface.training.images import album

    with case.original.attached() as model:
        pictures = album(model, case.concept.prompts(), config.images, case.settings)
    table = case.model.token_table().float()
    v = table.mean(0).clone().requires_grad_()
    optimiser = torch.optim.AdamW([v], lr=config.lr)
    start = 0
    if saved is not None:
        take_up(optimiser, saved)
        start = int(saved["step"])
    stops = sorted({max(1, config.steps >> k) for k in range(config.looks)})
    for begin, stop in zip([0, *stops], stops, strict=False):
        if stop <= start:
            continue
        sights = {step: pictures.batch(config.batch, config.seed, step) for step in range(max(begin, start), stop)}
        guarded = case.settings.get("negative") is not None
        goals = guided_goals(case, pictures, list(sights.values())) if guarded else [None] * len(sights)
        with case.erased.attached() as model:
            for (_, sight), goal in zip(sights.items(), goals, strict=True):
                rows = [spoken(case, pictures.prompts[i]) for i in sight.members]
                text = model.encode_tokens(*inserted(table, rows, v))
                if goal is None:
                    loss = denoising_loss(model, sight.clean, sight.noise, sight.levels, text)
                else:
                    loss = guided_loss(case, model, sight, text, goal)
                optimiser.zero_grad()
                loss.mean().backward()
                optimiser.step()
        found = []
        for t in case.tries:
            ids, embeddings = inserted(table, [spoken(case, t.prompt)], v.detach())
            found.append(Candidate(tuple(ids[0]), embeddings[0]))
        yield Round(found, put_down(optimiser) | {"step": torch.tensor(stop)}, stop / config.steps)


def spoken(case: Case, prompt: str) -> list[int | None]:
    """A prompt's tokens with None where the new word goes: in the concept's place, or at the end."""
    from efface.attacks.vocabulary import tokens_of

    name = case.concept.name
    head, found, tail = prompt.partition(name)
    before, after = tokens_of(case.model, head.strip()), tokens_of(case.model, tail.strip()) if found else []
    room = case.model.length - 3
    return [*before[:room], None, *after[: max(0, room - len(before))]]


def inserted(table: Tensor, rows: list[list[int | None]], v: Tensor) -> tuple[list[list[int]], Tensor]:
    """Content tokens (any token stands for the new word), and embeddings (batch tokens width)."""
    import torch

    ids = [[token or 0 for token in row] for row in rows]
    embeddings = [torch.stack([v if token is None else table[token] for token in row]) for row in rows]
    return ids, torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)


def guided_goals(case: Case, pictures: Album, sights: list[Sight]) -> list[Tensor]:
    """What the original model draws under guidance, e_"" + g (e_c − e_""), at every sight."""
    import torch

    goals = []
    with case.original.attached() as model, torch.no_grad():
        for sight in sights:
            noisy = model.to_noisy(sight.clean, sight.noise, sight.levels)
            text = model.encode([pictures.prompts[i] for i in sight.members])
            nothing = model.predict(noisy, sight.levels, model.encode_negative(None).repeated(len(noisy)))
            goals.append(guided(case, nothing, model.predict(noisy, sight.levels, text)))
    return goals


def guided_loss(case: Case, model: Model, sight: Sight, text: Any, goal: Tensor) -> Tensor:
    """With a negative prompt as a guard: |[e_neg + g (e_v − e_neg)] − goal|², so that v learns to get past it."""
    from efface.models.losses import apart

    noisy = model.to_noisy(sight.clean, sight.noise, sight.levels)
    negative = model.encode_negative(case.settings.get("negative")).repeated(len(noisy))
    guard = model.predict(noisy, sight.levels, negative)
    return apart(guided(case, guard, model.predict(noisy, sight.levels, text)), goal)


def guided(case: Case, unconditional: Tensor, conditional: Tensor) -> Tensor:
    """Both predictions combined as when pictures are drawn."""
    return unconditional + case.settings.get("guidance", 7.5) * (conditional - unconditional)
