"""What the tests of attacks share: a small real judge, options that take moments, and a run of any attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import efface
from efface.attacks import configured
from efface.attacks.base import Problem
from efface.erasures.switch import ModelVariant
from efface.judges import Verdicts
from efface.redteam.run import AttackRun, open_store, run
from efface.redteam.samples import SamplePlan, choose_samples, plan_samples

SETTINGS: Any = {"steps": 2, "guidance": 5.0}

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "ring-a-bell": ("ring-a-bell", {"length": 4, "population": 8, "generations": 6}),
    "ring-a-bell-soft": ("ring-a-bell", {"mode": "soft", "strengths": (0.5, 1.0, 2.0)}),
    "unlearndiff": ("unlearndiff", {"timesteps": 3, "iterations": 3, "length": 2}),
    "unlearndiff-suffix": ("unlearndiff", {"timesteps": 3, "iterations": 3, "length": 2, "place": "suffix"}),
    "p4d-n": ("p4d", {"length": 4, "iterations": 6, "every": 2}),
    "p4d-k": ("p4d", {"variant": "k", "iterations": 6, "every": 2}),
    "pund": ("pund", {"iterations": 6, "every": 2, "images": 2, "batch": 2}),
    "inversion": ("inversion", {"images": 2, "iterations": 6, "batch": 2, "looks": 3}),
    "mma": ("mma", {"length": 4, "iterations": 4, "candidates": 8, "best": 8}),
    "relapse-lora": ("relapse", {"iterations": 4, "every": 2, "images": 2, "batch": 2, "lr": 1e-2}),
    "relapse-full": ("relapse", {"mode": "full", "iterations": 4, "every": 2, "images": 2, "batch": 2, "lr": 1e-2}),
    "synonyms": ("synonyms", {"neighbours": 2, "most": 4}),
    "checkpoint": ("checkpoint", {}),
    "leak-sr": ("leak-sr", {"reduction": 2}),
    "leak-img2img": ("leak-img2img", {"strength": 0.5, "text": "own"}),
    "leak-inpaint": ("leak-inpaint", {}),
    "leak-begun": ("leak-begun", {"share": 0.5}),
    "leak-noise": ("leak-noise", {}),
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

    name, classes, detects = "likeness-1", ("church", "other"), False

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
    """A tiny pipeline under attack: both variants, the plan, and a judge for which the erasure works."""

    def __init__(self, pipe: Any, erasure: Any = None, samples: int = 2):
        self.pipe, self.model = pipe, efface.Model(pipe)
        self.erasure = erasure or efface.erase(pipe, CHURCH, method="uce", rows="all", keep=[])
        self.original, self.erased = ModelVariant(self.model), ModelVariant(self.model, (self.erasure,))
        planned = plan_samples(CHURCH.prompts(), samples, CHURCH)[:samples]
        self.plan = SamplePlan(planned, samples, SETTINGS, batch=2)
        self.judge = Likeness(*(self.drawn(target) for target in (self.original, self.erased)))

    def drawn(self, target: ModelVariant) -> Tensor:
        """The plan's pictures."""
        with target.attached() as model:
            samples = self.plan.samples
            return pixels(model.draw([s.prompt for s in samples], seeds=[s.seed for s in samples], **SETTINGS))

    def setup(self, row: str, **options: Any) -> AttackRun:
        """One row of SMALL."""
        name, small = SMALL[row]
        return AttackRun(
            name, self.original, self.erased, CHURCH, configured(name, **small | options), self.judge, self.plan
        )

    def run(self, row: str, folder: Any = None, progress: Any = lambda done, line: None, **options: Any) -> Any:
        """The findings of one row of SMALL."""
        setup = self.setup(row, **options)
        return run(setup, open_store(setup, folder), progress=progress)

    def problem(self, seed: int = 0) -> Problem:
        """The plan's samples as a search gets them."""
        from efface.judges.criterion import criterion_for

        store = open_store(self.setup("checkpoint"), None)
        chosen = choose_samples(self.original, self.erased, CHURCH, criterion_for(self.judge, CHURCH), self.plan, store)
        return Problem(
            original=self.original,
            erased=self.erased,
            concept=CHURCH,
            samples=tuple(chosen.samples),
            latents=chosen.latents,
            settings=SETTINGS,
            seed=seed,
        )


def pixels(images: Any) -> Tensor:
    """Pictures as rows of numbers, 0 to 1 (batch values)."""
    return torch.stack(
        [torch.from_numpy(np.asarray(i.resize((16, 16)), dtype=np.float64) / 255).flatten() for i in images]
    )
