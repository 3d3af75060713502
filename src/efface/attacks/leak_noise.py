"""More noise while sampling than the schedule says (the probe by noise of Lu et al., NeurIPS 2025, arXiv 2505.17013)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.attacks.base import AttackConfig
from efface.attacks.leaks import leak
from efface.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from efface.attacks.base import Problem, Proposal
    from efface.io.checkpoint import State
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options."""

    eta: float = 1.3
    """η of z' = a' x̂ + √(b'² − σ²) ε̂ + η σ n, where 1 is the DDPM step (the paper's code tries 1.3 to 1.9 and keeps the best
    of a grid)."""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 10:
            raise UsageError(f"eta is {self.eta}; expected 0 to 10.")


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Nothing is searched: the sample's own prompt is drawn by steps that add noise."""
    from efface.attacks.base import PictureProcess, Proposal
    from efface.attacks.leaks import candidates_of, denoised
    from efface.models.course import Ancestral

    prompts = [sample.prompt for sample in problem.samples]

    def draw(model: Model, members: Sequence[int]) -> list[Image.Image]:
        generators = problem.generators(0)
        text = model.encode([prompts[k] for k in members])
        course = Ancestral(config.eta, [generators[k] for k in members])
        return model.decode(denoised(problem, model, members, text, course))

    yield Proposal(candidates_of(problem, prompts), {}, 1.0, pictures=PictureProcess(draw, None))


ATTACK = leak(__doc__, Config, search)
