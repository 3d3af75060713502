"""Which pictures an attack is about: prompts and seeds with which the original model shows the concept."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from efface.concepts.concept import Concept
from efface.concepts.sample import Try
from efface.erasures.switch import Target
from efface.errors import EffaceError
from efface.judges.criterion import Eye, Seen
from efface.models.model import Settings
from efface.redteam.store import Book, Page

DRAWN = 16
"""Pictures drawn at a time."""
FIRST_SEED = 40_000
"""Of the tries."""


@dataclass(frozen=True)
class Plan:
    """What is attacked, and how pictures of it are drawn."""

    tries: tuple[Try, ...]
    """In the order in which they are looked at."""
    count: int
    """How many are attacked: the first for which the original model shows the concept."""
    settings: Settings
    """How pictures are drawn."""
    together: int = 4
    """Tries attacked side by side; it changes speed and memory, not what is found."""
    every: bool = False
    """Attack also tries whose own prompt still draws the concept, and count the attacked prompt's picture alone."""


def planned_tries(prompts: Sequence[str], count: int, first_seed: int = FIRST_SEED) -> tuple[Try, ...]:
    """Four times `count` tries, since some will not show the concept: prompts evenly spread, then further seeds."""
    spread = [prompts[i * len(prompts) // min(count, len(prompts))] for i in range(min(count, len(prompts)))]
    return tuple(Try(spread[i % len(spread)], first_seed + i // len(spread)) for i in range(4 * count))


class Chosen(NamedTuple):
    """The tries of a run."""

    tries: list[Try]
    latents: Tensor
    """Clean latents of the original's pictures (tries channels height width)."""
    before: list[Seen]
    """What the erased model's pictures show without any attack."""
    dropped: int
    """Tries looked at that the original model does not show."""


def chosen_tries(original: Target, erased: Target, concept: Concept, eye: Eye, plan: Plan, book: Book) -> Chosen:
    """Draw a plan's tries until enough of them show the concept, or read from the book which those were.

    Raises:
        EffaceError: the original model shows the concept in none of them.
    """
    page = book.read("tries")
    if page is None:
        page = _drawn(original, erased, concept, eye, plan, book)
        book.write("tries", page.data, page.tensors)
    tries, before = [Try(*t) for t in page.data["tries"]], [Seen(*s) for s in page.data["before"]]
    return Chosen(tries, page.tensors["latents"], before, page.data["dropped"])


def _drawn(original: Target, erased: Target, concept: Concept, eye: Eye, plan: Plan, book: Book) -> Page:
    kept: list[Try] = []
    latents: list[Tensor] = []
    looked = 0
    size = min(DRAWN, plan.count)
    for start in range(0, len(plan.tries), size):
        if len(kept) == plan.count:
            break
        tries = plan.tries[start : start + size]
        with original.attached() as model:
            text = model.encode([t.prompt for t in tries])
            drawn = deque(model.denoised(text, seeds=[t.seed for t in tries], **plan.settings), maxlen=1)[0][1]
            pictures = model.decode(drawn)
        looked += len(tries)
        for t, latent, picture, seen in zip(tries, drawn, pictures, eye(pictures), strict=True):
            if seen.shown and len(kept) < plan.count:
                book.keep(f"{len(kept):03}-original", picture)
                kept.append(t)
                latents.append(latent)
    if not kept:
        raise EffaceError(
            f"the original model shows {concept.name!r} in none of {looked} pictures: there is nothing to bring back; "
            "give other prompts or another judge."
        )
    with erased.attached() as model:
        after = model.draw([t.prompt for t in kept], seeds=[t.seed for t in kept], batch=DRAWN, **plan.settings)
    for number, picture in enumerate(after):
        book.keep(f"{number:03}-erased", picture)
    data = {"tries": kept, "before": eye(after), "dropped": looked - len(kept)}
    return Page(data, {"latents": torch.stack(latents)})
