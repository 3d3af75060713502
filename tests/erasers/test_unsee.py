"""unsee: its loss against the formula, written out picture by picture, its pictures, and its words."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

import efface
import tiny_families
from efface.concepts.sample import SEEDS
from efface.erasers import ERASERS, unsee
from efface.models.model import Model
from efface.training import loop
from efface.training.images import draw_concept_images, drawn_over
from efface.training.latents import Noisy
from efface.training.search import around, with_words
from efface.training.shown import NEAREST, Shown
from trained import begun, begun_on
from trained_searches import CHURCH, QUICK, erased, evidence_of, latents_of, on_found, predict, squared, started

DRAWN = {"steps": 2, "guidance": 7.5, "side": None}


def drawn(model, prompt):
    """Two pictures of a prompt, as unsee draws them."""
    return draw_concept_images(model, [prompt], 2, DRAWN)


def test_pictures_are_drawn_over_from_their_middle(model, monkeypatch):
    pictures = drawn(model, "a church")
    over = drawn_over(model, pictures, ["a cat", "a dog"], 1, DRAWN)
    monkeypatch.setattr(Model, "pictures_at_a_time", lambda *_: 1)
    torch.testing.assert_close(drawn_over(model, pictures, ["a cat", "a dog"], 1, DRAWN).latents, over.latents)
    assert over.prompts == ["a cat", "a dog"]
    scheduler = copy.deepcopy(model.pipeline.scheduler)
    scheduler.set_timesteps(2)
    t = scheduler.timesteps[1]
    for number, prompt in enumerate(over.prompts):
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEEDS.images + number))
        z = model.to_noisy(pictures.latents[number : number + 1], noise, t)
        nothing, something = (model.predict(z, t, model.encode([p])) for p in ("", prompt))
        output = nothing + 7.5 * (something - nothing)
        a = scheduler.alphas_cumprod[int(t)]
        clean = (z - (1 - a).sqrt() * output) / a.sqrt()
        assert torch.nn.functional.cosine_similarity(over.latents[number].flatten(), clean.flatten(), dim=0) > 0.95


class Unsee:
    """L of unsee at one step, picture by picture."""

    def __init__(self, model, training, number, random, guidance=7.5):
        self.model, self.training = model, training
        settings = DRAWN | {"guidance": guidance}
        self.config = training.options["config"]
        self.number = number
        self.pictures = {p: draw_concept_images(model, [p], 2, settings) for p in ("a church", "a truck")}
        self.pictures["a cat"] = drawn_over(model, self.pictures["a church"], ["a cat"], 1, settings)
        self.kappa = 1 - torch.rand(2, 1, 1, 1, generator=random.random) / 2

    def batch(self, prompt, which, size=2):
        return self.pictures[prompt].batch(size, self.config.seed, self.number, which)

    def as_under(self, prompt, which, before, now):
        x = self.batch(prompt, which, len(now))
        for row in range(len(now)):
            z = self.model.to_noisy(x.clean[row : row + 1], x.noise[row : row + 1], x.timesteps[row])
            at = Noisy(z, x.timesteps[row])
            target = predict(self.model, at, before[row])
            with self.training.held.active():
                yield squared(predict(self.model, at, now[row]), target) / len(now)

    def unseen(self, row, output, past):
        """w |an output − the noise that leaves the anchor's picture, or one so far past it|²; `output` is of noisy latents and t."""
        x, alphas = self.batch("a church", 2), self.model.pipeline.scheduler.alphas_cumprod
        t = max(int(x.timesteps[row]), 50)
        a, b = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        church, cat = (self.pictures[prompt].latents[x.members[row]][None] for prompt in ("a church", "a cat"))
        z = a * (self.kappa[row] * church + (1 - self.kappa[row]) * cat) + b * x.noise[row]
        with self.training.held.active():
            difference = output(z, torch.tensor(t)) - (z - a * (cat + past * (cat - church))) / b
            return min(1.0, float(b / a) ** 2) * difference.square().mean() / (church - cat).square().mean()

    def under(self, text):
        return lambda z, t: self.model.predict(z, t, text)

    def guided(self, text, g):
        nothing, something = self.under(self.model.encode([""])), self.under(text)
        return lambda z, t: (1 - g) * nothing(z, t) + g * something(z, t)

    def expected(self, attacking, truck, g=7.5, past=0.5):
        """L, where this text stands in the first half of the batch, and these prompts on what is retained."""
        value = sum(self.as_under("a cat", 0, ["a cat"], ["a church"]))
        value += self.config.retain * sum(self.as_under("a truck", 1, truck, truck))
        for row, text in enumerate([attacking, self.model.encode(["a church"])]):
            value += self.config.forget / 2 * self.unseen(row, self.guided(text, 0), 0).item()
            value += self.config.forget / 2 / g * self.unseen(row, self.guided(text, g), past).item()
        return value


UNSEE = QUICK["unsee"] | {"word_steps": 1, "word_lr": 0.02, "strength": 0.5, "forget": 0.3, "retain": 0.7}


def trucks(random):
    return ["a truck" if random.integer(6) else "" for _ in range(2)]


def test_unsee_is_its_formula(model):
    training = begun(model, "unsee", [CHURCH], **UNSEE, keep=("a truck",))
    started(training)
    loss, _ = training.gradients()
    random, table = training.step(), model.token_table().float()
    naive = Unsee(model, training, 0, random)
    start = table[[random.integer(len(table)) for _ in range(2)]]

    def said(v):
        return with_words(model, table, [around(model, "a church", "church")], v)

    words, means = (training.options["kept"][name] for name in ("words", "mean"))
    for row, word in enumerate(words):
        v = start[row : row + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(naive.unseen(row, naive.under(said(v)), -1) / 2, [v])
        torch.testing.assert_close(means[row : row + 1], 0.1 * gradient, rtol=1e-3, atol=1e-6)
        assert torch.equal(word, (start[row] - 0.02 * means[row].sign()))
    assert loss == pytest.approx(naive.expected(said(words[:1]), trucks(random)), rel=1e-4)


def test_pictures_that_are_their_own_anchors_weigh_no_more_than_the_nearest(model):
    training = begun(model, "unsee", [CHURCH], **UNSEE, keep=("a truck",))
    started(training)
    step, x = training.step(), drawn(model, "a church").batch(2, 0, 0, 2)
    shown = Shown.of(model, x, x.clean, step.random)
    text = model.encode(["a church"] * 2)
    expected = 0.0
    for row in range(2):
        z, t = shown.z.z[row : row + 1], shown.z.timestep[row]
        a = model.pipeline.scheduler.alphas_cumprod[int(t)]
        difference = model.predict(z, t, model.encode(["a church"])) - (z - a.sqrt() * x.clean[row]) / (1 - a).sqrt()
        expected += min(1.0, float((1 - a) / a)) * difference.square().mean().item() / NEAREST / 2
    assert shown.apart(step, text, x.clean).item() == pytest.approx(expected, rel=1e-4)


def test_without_guidance_the_prompt_itself_leads_to_the_anchor(model):
    training = begun(model, "unsee", [CHURCH], **UNSEE | {"guidance": 1.0}, keep=("a truck",))
    started(training)
    loss, _ = training.gradients()
    random, words = training.step(), training.options["kept"]["words"]
    naive = Unsee(model, training, 0, random, guidance=1.0)
    [random.integer(len(model.token_table())) for _ in words]
    said = with_words(model, model.token_table().float(), [around(model, "a church", "church")], words[:1])
    assert loss == pytest.approx(naive.expected(said, trucks(random), g=1.0, past=0.0), rel=1e-4)


def test_words_of_unsee_begin_anew_in_turn(model):
    training = begun(model, "unsee", [CHURCH], **QUICK["unsee"] | {"fresh": 2, "word_lr": 1e-9})
    table, words = model.token_table().float(), training.options["kept"]["words"]

    def tokens():
        return [int((table - word).norm(dim=1).argmin()) for word in words]

    begun_at = []
    with loop.training(model, False):
        for number in range(6):
            training.loss(training.step(number))
            begun_at.append(tokens())
    assert torch.allclose(words[0], table.mean(0), atol=1e-6)  # the third time
    assert torch.allclose(words[1], table.mean(0), atol=1e-6)
    assert begun_at[0][0] == begun_at[3][0]
    assert begun_at[0][1] == begun_at[1][1]
    assert begun_at[2][1] == begun_at[5][1]


def test_unsee_without_words_serves_whole_prompts(draw):
    pipe = tiny_families.pipeline("pixart-alpha")
    side = tiny_families.CASES["pixart-alpha"].side
    erasure = erased(pipe, "unsee", words=0, side=side)
    assert np.isfinite(erasure.provenance.notes["loss"])
    before = latents_of("pixart-alpha")
    with erasure.attached(pipe):
        assert np.abs(latents_of("pixart-alpha") - before).max() > 1e-6


def test_unsee_without_retained_prompts_draws_none(sd):
    config = ERASERS.load("unsee").Config(images=3, retained_images=5, keep=("a truck",), retain=1.0)
    counts = [
        unsee.pictures([CHURCH], dataclasses.replace(config, **c), judged=False)
        for c in ({}, {"keep": ()}, {"retain": 0.0})
    ]
    assert counts == [11, 6, 6]
    erasure = efface.erase(sd, CHURCH, method="unsee", keep=[], **QUICK["unsee"])
    assert "unfinished" not in erasure.provenance.notes
    for wrong in (
        {"images": 0},
        {"batch": 1},
        {"words": -1},
        {"words": 5},
        {"word_lr": 0.0},
        {"forget": -1.0},
        {"strength": 0.0},
    ):
        with pytest.raises(efface.UsageError, match="expected"):
            efface.erase(sd, CHURCH, method="unsee", keep=[], **wrong)


# Training on with what attacks found


def begins(model, number):
    """Where the word of a step may begin."""
    table = model.token_table().float()
    return table if number == 0 or number % 4 in (0, 3) else table.mean(0, keepdim=True)


@pytest.mark.parametrize("finding", ["words", "embeddings", "states"])
def test_unsee_trains_on_at_what_was_found(sd, model, finding):
    evidence = evidence_of(model, finding)
    training = begun_on(model, erased(sd, "unsee", **UNSEE), evidence)
    number, random = on_found(training)
    loss, _ = training.gradients(number)
    naive = Unsee(model, training, number, random)
    for _ in range(2 if number == 0 else 1):  # words begin anew in these steps, too
        random.integer(len(model.token_table()))
    assert loss == pytest.approx(naive.expected(evidence.text, trucks(random)), rel=1e-4)
    assert any(torch.equal(training.options["kept"]["words"][number % 2], row) for row in begins(model, number))
