"""Image-to-image with the erased model (SDEdit, Meng et al., ICLR 2022, arXiv 2108.01073): a reduced picture of the concept is
noised and drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.attacks.leaks import LeakConfig, leak, require_share
from efface.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State
    from efface.models.model import Model

BUDGETS: dict[str, dict[str, Any]] = {"canvas": {"reduction": 8, "text": "own"}, "quick": {}}
"""The canvas draws nothing whole of a picture of 8 pixels without words."""


@dataclass(frozen=True)
class Config(LeakConfig):
    """Options."""

    strength: float = 0.6
    """Share of the steps that are taken, as image-to-image pipelines have it; the rest of the noise is not added."""
    reduction: int = 4
    """How many times the original's picture is reduced and enlarged again (bicubic) before; 1 leaves it as it is."""

    def __post_init__(self) -> None:
        require_share("strength", self.strength)
        if self.reduction < 1:
            raise UsageError(f"reduction is {self.reduction}; expected at least 1.")


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Nothing is searched: the picture is encoded, noised up to the strength and denoised by the erased model."""
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
        skipped_steps,
    )  # fmt: skip
    from efface.models.course import FromPicture
    from efface.models.pictures import compressed

    own = require_input(problem, "img2img", "leak-img2img")
    start = originals(problem)
    if config.reduction > 1:
        start = enlarged(reduced(start, config.reduction), config.reduction)
    prompts = prompts_of(problem, config)
    skipped = skipped_steps(problem, config.strength)

    def draw(model: Model, members: Sequence[int]) -> list[Image.Image]:
        if own:
            given = pictures(start[list(members)])
            return called(problem, model, members, prompts, image=given, strength=config.strength)
        text = model.encode([prompts[k] for k in members])
        course = FromPicture(compressed(model, start[list(members)]), skipped)
        return model.decode(denoised(problem, model, members, text, course))

    yield Proposal(candidates_of(problem, prompts), {}, 1.0, pictures=PictureProcess(draw, pictures(start)))


ATTACK = leak(__doc__, Config, search, BUDGETS)
