"""Inpainting with the erased model (the probe by visual context of Lu et al., NeurIPS 2025, arXiv 2505.17013): what surrounds the
middle of a picture of the concept is given, the middle is to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.leaks import LeakConfig, leak, require_share

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State
    from efface.models.model import Model

BUDGETS: dict[str, dict[str, Any]] = {"canvas": {"hidden": 0.75}, "quick": {}}


@dataclass(frozen=True)
class Config(LeakConfig):
    """Options."""

    text: Literal["empty", "own"] = "own"
    """What the model is told beside what surrounds the middle: the sample's own prompt, as the paper does, or nothing."""
    hidden: float = 0.5
    """Side of the square in the middle that is drawn anew, as a share of the picture's."""

    def __post_init__(self) -> None:
        require_share("hidden", self.hidden)


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Nothing is searched: at every step what is known of the picture, noised alike, takes the place of what was drawn."""
    import torch

    from efface.attacks.base import PictureProcess, Proposal
    from efface.attacks.leaks import called, candidates_of, denoised, originals, pictures, prompts_of, require_input
    from efface.models.course import Inpainted

    own = require_input(problem, "inpaint", "leak-inpaint")
    prompts = prompts_of(problem, config)
    latents = problem.latents
    hidden = middle(latents.shape[-2], latents.shape[-1], config.hidden)

    def draw(model: Model, members: Sequence[int]) -> list[Image.Image]:
        if own:
            given = pictures(known[list(members)])
            return called(problem, model, members, prompts, image=given, mask_image=mask, **size)
        text = model.encode([prompts[k] for k in members])
        return model.decode(denoised(problem, model, members, text, Inpainted(latents[list(members)], hidden)))

    known = originals(problem)
    size = {"height": known.shape[-2], "width": known.shape[-1]}
    over = torch.nn.functional.interpolate(hidden, known.shape[-2:]).to(known)
    mask = pictures((2 * over - 1).expand(1, 3, -1, -1))[0]
    grey = known * (1 - over)  # 0 is the middle of the range
    yield Proposal(candidates_of(problem, prompts), {}, 1.0, pictures=PictureProcess(draw, pictures(grey)))


def middle(height: int, width: int, share: float) -> Tensor:
    """1 in a rectangle in the middle whose sides are `share` of the whole's, at least one cell, else 0 (1 1 height width)."""
    import torch

    mask = torch.zeros(1, 1, height, width)
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    mask[..., top : top + rows, left : left + columns] = 1
    return mask


ATTACK = leak(__doc__, Config, search, BUDGETS)
