"""Finishing a picture that the original model began (the probe by the diffusion trajectory of Lu et al., NeurIPS 2025,
arXiv 2505.17013)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.attacks.base import AttackConfig
from efface.attacks.leaks import leak, require_share

if TYPE_CHECKING:
    from PIL import Image

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State
    from efface.models.model import Model

BUDGETS: dict[str, dict[str, Any]] = {"canvas": {"share": 0.1}, "quick": {}}
"""After a quarter of twelve steps the original's estimate shows the concept already, and there would be nothing to give back."""


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options."""

    share: float = 0.25
    """Share of the steps that the original model takes, the noisiest ones; at least one."""

    def __post_init__(self) -> None:
        require_share("share", self.share)


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Nothing is searched: the erased model goes on from the original's latents, with the sample's own prompt."""
    from itertools import islice

    from efface.attacks.base import PictureProcess, Proposal
    from efface.attacks.leaks import candidates_of, denoised
    from efface.models.course import Estimating, Resumed

    prompts = [sample.prompt for sample in problem.samples]
    seeds = [sample.seed for sample in problem.samples]
    course = Estimating()
    with problem.original.attached() as model:
        begun = max(1, round(problem.settings.get("steps", 50) * model.family.blocks * config.share))
        steps = model.denoise(model.encode(prompts), seeds=seeds, course=course, **problem.settings)
        *_, (_, latents) = islice(steps, begun)
        seen = model.decode(course.clean)

    def draw(model: Model, members: Sequence[int]) -> list[Image.Image]:
        text = model.encode([prompts[k] for k in members])
        return model.decode(denoised(problem, model, members, text, Resumed(latents[list(members)], begun)))

    yield Proposal(candidates_of(problem, prompts), {}, 1.0, pictures=PictureProcess(draw, seen))


ATTACK = leak(__doc__, Config, search, BUDGETS)
