"""STEREO: the loss of its last stage against the formula, and what its rounds leave behind."""

from __future__ import annotations

import pytest

import efface
from efface.erasers import stereo
from efface.training.latents import rolled
from efface.training.search import around, with_words
from efface.training.ways import Spoken, grouped
from trained import begun, begun_on
from trained_searches import CHURCH, QUICK, erased, evidence_of, on_found, squared, started


def test_stereos_last_stage_is_its_formula(model):
    training = begun(model, "stereo", [CHURCH], rounds=0, draw_steps=2, keep=(), strength=1.5)
    table = model.token_table().float()
    text = with_words(model, table, [around(model, "a church", "church")], table[[3]])
    ways = [Spoken(model.encode(["a church"]), "a church"), Spoken(text, "a church")]
    config = stereo.Config(draw_steps=2, keep=(), strength=1.5)
    loss = stereo.last_loss(model, grouped(CHURCH, ways), config)
    started(training)
    step = training.step()
    step.integer(1)
    c = ways[step.integer(2)].text
    z = rolled(model, c, step.integer(2), 11, steps=2, guidance=3.0, side=None)

    def eps(t):
        return model.predict(z.z, z.timestep, t).detach()

    empty, anchor = eps(model.encode([""])), eps(model.encode(["a cat"]))
    away = sum(eps(way.text) - empty for way in ways) / 2
    target = empty + 0.5 * (anchor - empty) - 2.5 * away
    with training.held.active():
        expected = squared(eps(c), target)
    assert float(training._replace(loss=loss).gradients()[0]) == pytest.approx(expected, rel=1e-4)


def test_stereo_goes_on_from_round_to_round_and_ends_at_the_original(sd):
    erasure = efface.erase(sd, CHURCH, method="stereo", keep=[], **QUICK["stereo"] | {"rounds": 2})
    assert erasure.provenance.notes["words"] == [2]
    assert erasure.provenance.notes["steps"] == 2 + 2 * (2 + 2)
    # The words are of the search; the weights begin anew, so that they are a few steps away from the original's.
    assert max(float(t.abs().max()) for t in erasure.tensors().values()) <= 2 * 1e-2 * 1.1


# Training on with what attacks found


def test_stereo_trains_on_at_what_was_found(sd, model):
    evidence = evidence_of(model)
    training = begun_on(model, erased(sd, "stereo", strength=1.5), evidence)
    number, step = on_found(training)
    ways = [model.encode(["a church"]), evidence.text]
    c = ways[step.integer(2)]
    z = rolled(model, c, step.integer(2), 11, steps=2, guidance=3.0, side=None)

    def eps(text):
        return model.predict(z.z, z.timestep, text).detach()

    empty, anchor = eps(model.encode([""])), eps(model.encode(["a cat"]))
    target = empty + 0.5 * (anchor - empty) - 2.5 * sum(eps(way) - empty for way in ways) / 2
    with training.held.active():
        expected = squared(model.predict(z.z, z.timestep, c), target)
    assert training.gradients(number)[0] == pytest.approx(expected, rel=1e-4)


def test_stereo_learns_of_prompts_that_are_not_the_concepts_own(sd, model):
    evidence = evidence_of(model, prompt="a dog")
    training = begun_on(model, erased(sd, "stereo"), evidence)
    number, step = on_found(training)
    assert step.integer(2) in (0, 1)  # the prompt itself, and what was found in its place
    assert training.gradients(number)[0] > 0
