"""What a training says it will have the denoiser do, against what passes through it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

import efface
from efface.api.erase import plan_erasure
from efface.erasers import ERASERS
from efface.judges.base import Detection
from efface.training import loop
from efface.training.config import Training
from quick import others_slow

ROLLING = {"iterations": 24, "draw_steps": 3}
DRAWING = {"iterations": 12, "draw_steps": 2, "images": 4}
OPTIONS = {
    "esd": ROLLING | {"retain": 1.0},
    "ca": DRAWING | {"batch": 3, "prior": 1.0},
    "sdd": ROLLING,
    "doco": DRAWING | {"batch": 2, "warmup": 3},
    "sculpting": DRAWING | {"batch": 2, "warmup": 1, "iterations": 20},
    "kpop": ROLLING | {"retain": 1.0},
    "geom": DRAWING | {"batch": 3},
    "spm": ROLLING | {"warmup": 0, "sampled": 2},
    "mace": DRAWING | {"batch": 2},
    "receler": ROLLING | {"attack_steps": 2},
    "advunlearn": ROLLING | {"attack_steps": 3, "warmup": 6, "retain_batch": 2},
    "stereo": DRAWING | {"iterations": 8, "rounds": 2, "round_iterations": 6, "word_iterations": 5, "word_batch": 2},
    "eraseflow": ROLLING | {"draw_steps": 5, "fresh": 6, "early": 2, "late": 2, "together": 2},
    "aegis": ROLLING,
    "unsee": DRAWING | {"batch": 6, "retained_images": 4, "words": 2, "word_steps": 2},
}
"""One set of options a method, with what it can do besides."""
CONCEPTS = [efface.Concept("church", templates=("a {}",)), efface.Concept("dog", templates=("a {}",))]


class Everywhere:
    """A detector that finds something in the middle of every picture."""

    def detect(self, images):
        return [[Detection("church", 0.9, (0, 0, image.width / 2, image.height / 2))] for image in images]


@contextmanager
def counting(network):
    """Counts the pictures that pass through a network while something is trained, and those that ask for gradients."""
    counts = {"passes": 0, "asking": 0, "steps": 0, "training": False}

    def hook(module, args, output):
        if counts["training"]:
            counts["passes"] += len(output[0])
            counts["asking"] += len(output[0]) * output[0].requires_grad

    handle = network.register_forward_hook(hook)
    yield counts
    handle.remove()


@pytest.mark.parametrize("method", others_slow(OPTIONS, ("esd", "mace", "eraseflow", "unsee")))
def test_the_work_that_is_said_is_what_passes_through_the_denoiser(method, sd, monkeypatch):
    concepts = CONCEPTS[:1] if method == "geom" else CONCEPTS
    judge = Everywhere() if method == "geom" else None
    keep = {} if method == "geom" else {"keep": ["a tree", "a boat"]}
    plan = plan_erasure(sd, concepts, method=method, judge=judge, **OPTIONS[method], **keep)
    said = plan.config.work(plan.concepts)
    train = loop.train
    with counting(sd.unet) as counts:

        def watched(*args, **options):
            counts["training"] = True
            trained = train(*args, **options)
            counts["training"] = False
            counts["steps"] += trained.notes["steps"]
            return trained

        monkeypatch.setattr(loop, "train", watched)
        plan.run()
    assert said.steps == counts["steps"]
    back = counts["asking"] / (2 if method == "eraseflow" else 1)  # it computes all that it keeps twice
    assert said.back == pytest.approx(back, rel=0.05)
    assert said.forward == pytest.approx(counts["passes"] - back, rel=0.2)


def test_texts_are_counted_where_nothing_is_denoised(sd, monkeypatch):
    concepts = [efface.Concept("church", aliases=("chapel",), templates=("a {}", "the {}")), CONCEPTS[1]]
    options = {"iterations": 4, "retain": 1.0, "keep": ["a tree", "a boat"]}
    plan = plan_erasure(sd, concepts, method="hirm", **options)
    said, read = plan.config.work(plan.concepts), []
    train = loop.train

    def watched(*args, **options):
        hook = sd.text_encoder.register_forward_hook(
            lambda module, inputs, output: read.append(len(inputs[0])), always_call=True
        )
        trained = train(*args, **options)
        hook.remove()
        return trained

    monkeypatch.setattr(loop, "train", watched)
    plan.run()
    assert said.steps == 4
    assert said.forward + said.back == sum(read)


def test_every_trained_eraser_says_what_it_does():
    trained = {name for name in ERASERS if issubclass(ERASERS.load(name).Config, Training)}
    assert trained == {*OPTIONS, "hirm"}
    assert all(ERASERS.load(name).Config.work is not Training.work for name in trained)


@pytest.mark.parametrize("method", OPTIONS)
def test_pictures_are_counted_where_they_are_drawn_first(method, sd):
    keep = {} if method == "geom" else {"keep": ["a tree"]}
    plan = plan_erasure(sd, CONCEPTS[:1], method=method, **OPTIONS[method], **keep)
    assert plan.pictures() is not None
    assert (plan.pictures() > 0) == ("images" in OPTIONS[method])


def test_more_concepts_take_more_only_where_each_is_trained_alone():
    for method in OPTIONS:
        one, two = (ERASERS.load(method).Config().work(CONCEPTS[:count]).steps for count in (1, 2))
        assert (two > one) == (method in ("spm", "sculpting", "mace", "stereo"))
