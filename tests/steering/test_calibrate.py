"""Calibration of SAeUron with a judge whose verdicts are known."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import tiny
from efface.concepts.concept import Concept
from efface.erasers.saeuron import Config
from efface.errors import UsageError
from efface.judges.base import Verdicts
from efface.sae.statistics import Statistics
from efface.steering.calibrate import PICTURES, calibrate, most_affected

NAMES = ("church", "house", "cat", "dog", "cow", "pig", "car", "bus")
CHURCH = Concept("church", templates=("a {}", "a {} in noto style"))


def measured() -> Statistics:
    """Latent i responds to concept i; the church's also to the house."""
    means = torch.eye(len(NAMES))[:, None].repeat(1, 2, 1)
    means[1, :, 0] = 0.5
    return Statistics(NAMES, ("object",) * len(NAMES), torch.tensor([900.0, 100.0]), means, torch.zeros(2), 1)


class Studio:
    """A model whose pictures are their prompts, and a judge who reads them; what is attached decides what is erased."""

    classes, detects = NAMES, False

    def __init__(self, removes_from: float, damages_from: float):
        self.removes_from, self.damages_from = removes_from, damages_from
        self.attached: Config | None = None
        self.drawn = 0
        self.pipeline = tiny.stable_diffusion()

    def draw(self, prompts, **_):
        self.drawn += len(prompts)
        return list(prompts)

    def made(self, config, **_):
        @contextmanager
        def attached(_):
            self.attached = config
            yield
            self.attached = None

        return SimpleNamespace(attached=attached)

    def __call__(self, pictures):
        labels = []
        for prompt in pictures:
            name = next(n for n in NAMES if n in prompt)
            strength = 0.0 if self.attached is None else -self.attached.gamma
            gone = self.attached is not None and strength >= (
                self.removes_from if name == "church" else self.damages_from
            )
            labels.append("nothing" if gone else name)
        return Verdicts(tuple(labels), torch.zeros(len(labels), len(NAMES)), torch.ones(len(labels), dtype=torch.bool))


@pytest.mark.parametrize(("removes_from", "found"), [(0, 0.0), (3, -5.0), (10, -10.0)])
def test_the_least_factor_that_removes_is_found(removes_from, found):
    studio = Studio(removes_from, damages_from=15)
    best, curve = calibrate(studio, [CHURCH], Config(), [measured()], studio.made, studio)  # type: ignore[arg-type]
    assert best.gamma == found
    assert best.count == 1
    assert not best.calibrate
    assert studio.drawn <= PICTURES
    assert len(curve) >= 6
    again = calibrate(Studio(removes_from, 15), [CHURCH], Config(), [measured()], studio.made, studio)  # type: ignore[arg-type]
    assert again[1] == curve


def test_the_others_that_share_the_latents_are_watched_first():
    assert most_affected([measured()], ["church"])[0] == "house"


def test_a_judge_that_does_not_know_the_concept_is_refused():
    for judge in (None, SimpleNamespace(classes=("cat",))):
        with pytest.raises(UsageError, match="needs a judge"):
            calibrate(None, [CHURCH], Config(), [measured()], None, judge)  # type: ignore[arg-type]
