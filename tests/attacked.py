"""What the tests of attacks share: a small real judge, options that take moments, and a run of any attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface
from efface.attacks import configured
from efface.attacks.base import Case
from efface.erasures.switch import Target
from efface.judges import Verdicts
from efface.redteam.run import Setup, open_book, run
from efface.redteam.samples import Plan, chosen_tries, planned_tries

SETTINGS: Any = {"steps": 2, "guidance": 5.0}

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "ring-a-bell": ("ring-a-bell", {"length": 4, "population": 8, "generations": 6}),
    "ring-a-bell-soft": ("ring-a-bell", {"mode": "soft", "strengths": (0.5, 1.0, 2.0)}),
    "unlearndiff": ("unlearndiff", {"levels": 3, "iterations": 3, "length": 2}),
    "unlearndiff-suffix": ("unlearndiff", {"levels": 3, "iterations": 3, "length": 2, "place": "suffix"}),
    "p4d-n": ("p4d", {"length": 4, "steps": 6, "every": 2}),
    "p4d-k": ("p4d", {"variant": "k", "steps": 6, "every": 2}),
    "pund": ("pund", {"steps": 6, "every": 2, "images": 2, "batch": 2}),
    "inversion": ("inversion", {"images": 2, "steps": 6, "batch": 2, "looks": 3}),
    "mma": ("mma", {"length": 4, "steps": 4, "candidates": 8, "best": 8}),
    "relapse-lora": ("relapse", {"steps": 4, "every": 2, "images": 2, "batch": 2, "lr": 1e-2}),
    "relapse-full": ("relapse", {"mode": "full", "steps": 4, "every": 2, "images": 2, "batch": 2, "lr": 1e-2}),
    "synonyms": ("synonyms", {"neighbours": 2, "most": 4}),
    "checkpoint": ("checkpoint", {}),
}
"""A row for every attack and variant: its name, and options that take moments on a tiny pipeline."""

CHURCH = efface.Concept(
    "church",
    anchor="cat",
    aliases=("dog",),
    templates=("a {}", "a {} in noto style"),
    keep=("a garbage truck", "art style"),
)


class Likeness:
    """A judge of two classes: does a picture resemble the first set of pictures more than the second?"""

    name, classes = "likeness-1", ("church", "other")

    def __init__(self, first: Tensor, second: Tensor):
        self.direction = (first - second).mean(0)
        sides = [(pictures @ self.direction).tolist() for pictures in (first, second)]
        self.middle, self.spread = (min(sides[0]) + max(sides[1])) / 2, min(sides[0]) - max(sides[1])
        assert self.spread > 0, "the pictures cannot be told apart along one line"

    def __call__(self, images):
        scores = torch.sigmoid(4 * (pixels(images) @ self.direction - self.middle) / self.spread)
        labels = tuple("church" if score > 0.5 else "other" for score in scores)
        return Verdicts(labels, torch.stack([scores, 1 - scores], 1), torch.ones(len(images), dtype=torch.bool))


class Field:
    """A tiny pipeline under attack: both targets, the plan, and a judge for which the erasure works."""

    def __init__(self, pipe: Any, erasure: Any = None, tries: int = 2):
        self.pipe, self.model = pipe, efface.Model(pipe)
        self.erasure = erasure or efface.erase(pipe, CHURCH, method="uce", rows="all", keep=[])
        self.original, self.erased = Target(self.model), Target(self.model, (self.erasure,))
        self.plan = Plan(planned_tries(CHURCH.prompts(), tries)[:tries], tries, SETTINGS, together=2)
        self.judge = Likeness(*(self.drawn(target) for target in (self.original, self.erased)))

    def drawn(self, target: Target) -> Tensor:
        """The plan's pictures."""
        with target.attached() as model:
            prompts, seeds = zip(*self.plan.tries, strict=True)
            return pixels(model.draw(prompts, seeds=seeds, **SETTINGS))

    def setup(self, row: str, **options: Any) -> Setup:
        """One row of SMALL."""
        name, small = SMALL[row]
        return Setup(
            name, self.original, self.erased, CHURCH, configured(name, **small | options), self.judge, self.plan
        )

    def run(self, row: str, folder: Any = None, report: Any = lambda done, line: None, **options: Any) -> Any:
        """The findings of one row of SMALL."""
        setup = self.setup(row, **options)
        return run(setup, open_book(setup, folder), report=report)

    def case(self, seed: int = 0) -> Case:
        """The plan's tries as a search gets them."""
        from efface.judges.criterion import eye_of

        book = open_book(self.setup("checkpoint"), None)
        chosen = chosen_tries(self.original, self.erased, CHURCH, eye_of(self.judge, CHURCH), self.plan, book)
        tries = tuple(chosen.tries)
        return Case(self.original, self.erased, CHURCH, tries, chosen.latents, SETTINGS, seed)


def pixels(images: Any) -> Tensor:
    """Pictures as rows of numbers, 0 to 1 (batch values)."""
    return torch.stack(
        [torch.from_numpy(np.asarray(i.resize((16, 16)), dtype=np.float64) / 255).flatten() for i in images]
    )
