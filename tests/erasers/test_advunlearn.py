"""AdvUnlearn: its loss against the formula, what it retains, and from when on it searches."""

from __future__ import annotations

import pytest

import efface
from efface.erasers import ERASERS, advunlearn
from trained import begun, begun_on
from trained_searches import CHURCH, erased, evidence_of, on_found, predict, roll, squared, started


def test_advunlearn_is_its_formula(model):
    options = {"draw_steps": 2, "warmup": 1, "attack_steps": 2, "keep": (), "eta": 1.5}
    training = begun(model, "advunlearn", [CHURCH], **options)
    started(training, 0.02)
    step = training.step()
    step.integer(1)
    z = roll(model, "a church", step.integer(2))
    target = 2.5 * predict(model, z, "") - 1.5 * predict(model, z, "a church")
    with training.held.active():
        expected = squared(predict(model, z, "a church"), target)
    assert training.gradients()[0] == pytest.approx(expected, rel=1e-4)
    names = training.held.delta()
    assert all("embedding" not in name for name in names)
    assert any("final_layer_norm" in name for name in names)
    # From the end of the warm-up on, a word stands before the prompt.
    step = training.step(1)
    step.integer(1)
    z = roll(model, "a church", step.integer(2))
    target = 2.5 * predict(model, z, "") - 1.5 * predict(model, z, "a church")
    with training.held.active():
        plain = squared(predict(model, z, "a church"), target)
    assert training.gradients(1)[0] != pytest.approx(plain, rel=1e-3)


def test_advunlearn_retains_what_the_encoder_gave(model):
    options = {"draw_steps": 2, "attack_steps": 0, "keep": ("a truck",), "retain_batch": 1}
    bare, kept = (begun(model, "advunlearn", [CHURCH], **options, retain=r).gradients()[0] for r in (0.0, 0.5))
    assert bare == kept  # nothing has moved yet
    training = begun(model, "advunlearn", [CHURCH], **options, retain=0.5)
    started(training, 0.02)
    other = begun(model, "advunlearn", [CHURCH], **options, retain=0.0)
    started(other, 0.02)
    assert training.gradients()[0] > other.gradients()[0]


def test_coco_without_what_is_erased():
    prompts = advunlearn.coco_prompts([efface.Concept("dog")])
    assert len(prompts) == 79
    assert "a photo of a dog" not in prompts


# Training on with what attacks found


@pytest.mark.parametrize("finding", ["words", "embeddings"])
def test_advunlearn_trains_on_at_what_was_found(sd, model, finding):
    evidence = evidence_of(model, finding)
    training = begun_on(model, erased(sd, "advunlearn", attack_steps=0, retain=0.0), evidence)
    number, step = on_found(training)
    z = roll(model, "a church", step.integer(2))
    target = 2 * predict(model, z, "") - predict(model, z, "a church")
    (found,) = evidence.found
    with training.held.active():
        text = model.encode_tokens([found.ids], None if found.embeddings is None else found.embeddings[None])
        expected = squared(model.predict(z.z, z.timestep, text), target)
    loss, gradients = training.gradients(number)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert any(g.abs().max() > 0 for g in gradients)


def test_advunlearn_searches_from_the_first_step_of_training_on(sd, model):
    losses = [
        begun_on(model, erased(sd, "advunlearn", warmup=9, attack_steps=steps), evidence_of(model)).gradients()[0]
        for steps in (0, 2)
    ]
    assert losses[0] != losses[1]


def test_text_states_go_past_what_advunlearn_trains(sd, model):
    with pytest.raises(efface.EffaceError, match="go past the text encoder"):
        ERASERS.load("advunlearn").extend(model, erased(sd, "advunlearn"), evidence_of(model, "states"))
