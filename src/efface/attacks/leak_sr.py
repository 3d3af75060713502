"""Super-resolution with the erased model as the prior (null-space: DDNM, Wang et al., ICLR 2023, arXiv 2212.00490): the concept
comes from a reduced picture, not from words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.attacks.leaks import LeakConfig, leak
from efface.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State
    from efface.models.model import Model

BUDGETS: dict[str, dict[str, Any]] = {"canvas": {"reduction": 8}, "quick": {}}
"""Reduced four times, a picture of 64 pixels still shows what it shows, and there would be nothing to give back."""


@dataclass(frozen=True)
class Config(LeakConfig):
    """Options."""

    reduction: int = 4
    """Pixels of a side of the squares of the original's picture whose means are kept."""

    def __post_init__(self) -> None:
        if self.reduction < 2:
            raise UsageError(f"reduction is {self.reduction}; expected at least 2.")


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Every estimate x̂ of the clean picture becomes x̂ + A⁺(y − A x̂) before the step is taken; the last has A x̂ = y."""
    import torch

    from efface.attacks.base import PictureProcess, Proposal
    from efface.attacks.leaks import (
        called,
        candidates_of,
        denoised,
        enlarged,
        originals,
        pictures,
        prompts_of,
        reduced,
        require_input,
    )
    from efface.models.course import Steered
    from efface.models.pictures import compressed, decompressed

    upscaler = require_input(problem, "upscale", "leak-sr")
    if upscaler and config.reduction != 4:
        raise UsageError(f"reduction is {config.reduction}, and the upscaler enlarges four times; expected 4.")
    y = reduced(originals(problem), config.reduction)
    prompts = prompts_of(problem, config)

    def draw(model: Model, members: Sequence[int]) -> list[Image.Image]:
        known = y[list(members)]
        if upscaler:
            return called(problem, model, members, prompts, image=pictures(known), noise_level=NOISE_LEVEL)

        def change(clean: torch.Tensor) -> torch.Tensor:
            return compressed(model, projected(decompressed(model, clean), known, config.reduction).clamp(-1, 1))

        text = model.encode([prompts[k] for k in members])
        latents = denoised(problem, model, members, text, Steered(change))
        return pictures(projected_in_range(decompressed(model, latents), known, config.reduction))

    without = pictures(enlarged(y, config.reduction))
    yield Proposal(candidates_of(problem, prompts), {}, 1.0, pictures=PictureProcess(draw, without))


NOISE_LEVEL = 20
"""Of the reduced picture that an upscaler is given (the pipeline's own default)."""


def projected(x: Tensor, y: Tensor, by: int) -> Tensor:
    """x + A⁺(y − A x): the picture nearest to x (batch 3 height width) whose reduction is y (batch 3 height/by width/by)."""
    from efface.attacks.leaks import reduced, repeated

    return x + repeated(y.to(x) - reduced(x, by), by)


def projected_in_range(x: Tensor, y: Tensor, by: int) -> Tensor:
    """The same among pictures whose pixels are in −1 to 1, as those of y are.

    Its pixels are x + s, cut to the range, with one shift s for each square, found by bisection since the mean of a square
    rises with it.
    """
    import torch

    from efface.attacks.leaks import reduced, repeated

    x, y = x.double(), y.to(x.device, torch.float64)
    reach = float(x.abs().max()) + 1
    low, high = torch.full_like(y, -reach), torch.full_like(y, reach)
    for _ in range(60):
        middle = (low + high) / 2
        less = reduced((x + repeated(middle, by)).clamp(-1, 1), by) < y
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (x + repeated((low + high) / 2, by)).clamp(-1, 1)


ATTACK = leak(__doc__, Config, search, BUDGETS)
