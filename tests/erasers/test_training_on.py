"""Training an erasure on with what attacks found: it begins where the erasure ended, unlearns it, and is resumed and told of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import efface
import tiny_families
from efface.erasers import ERASERS
from efface.erasers.base import FoundInput
from efface.erasers.further import encoded
from efface.models.model import Model
from efface.training import loop
from quick import others_slow
from trained import begun_on
from trained_searches import (
    CHURCH,
    DOG,
    FINDINGS,
    QUICK,
    UNETS,
    StoppedError,
    erased,
    evidence_of,
    latents_of,
    predict,
    some_latents,
    squared,
    stopping,
)

SEARCHING = ("receler", "advunlearn", "stereo", "aegis", "unsee")


def learnable(method):
    learns = getattr(ERASERS.load(method), "LEARNS", FINDINGS)
    return [(method, finding) for finding in FINDINGS if finding in learns]


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_begins_where_the_erasure_ended(sd, model, method, rank):
    rank = 4 if method == "receler" and rank is None else rank
    erasure = erased(sd, method, rank=rank)
    training = begun_on(model, erasure, evidence_of(model))
    z = some_latents(model)
    before = predict(model, z, "a church")
    with erasure.attached(sd):
        expected = predict(model, z, "a church").detach()
    with training.held.active():
        actual = predict(model, z, "a church").detach()
    assert squared(expected, before) > 1e-6
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(predict(model, z, "a church"), before)


@pytest.mark.parametrize(("method", "finding"), [pair for method in SEARCHING for pair in learnable(method)])
def test_training_on_goes_into_a_file_and_is_the_same_after_a_stop(sd, draw, tmp_path, monkeypatch, method, finding):
    model, before = Model(sd), draw(sd)
    erasure = erased(sd, method, every=1)
    evidence = evidence_of(model, finding)

    def extended():
        return ERASERS.load(method).extend(model, erasure, evidence)

    whole = extended()
    assert np.array_equal(draw(sd), before)
    old, new = erasure.provenance, whole.provenance
    assert (new.method, new.config, new.concepts, new.base, new.keep) == (
        old.method, old.config, old.concepts, old.base, old.keep,
    )  # fmt: skip
    steps = QUICK[method]["iterations"]
    assert new.notes["trained_on"] == [{"inputs": 1, "rounds": 1, "steps": steps}]
    assert new.notes["steps"] == old.notes["steps"] + steps
    whole.save(tmp_path / "e.safetensors")
    loaded = efface.Erasure.load(tmp_path / "e.safetensors")
    assert type(loaded) is type(erasure)
    with erasure.attached(sd):
        first = draw(sd)
    with loaded.attached(sd):
        assert np.abs(draw(sd) - first).max() > 1e-6
    assert np.array_equal(draw(sd), before)
    with monkeypatch.context() as patch:
        stopping(patch, 2, StoppedError)
        with pytest.raises(StoppedError):
            extended()
    resumed = extended().tensors()
    assert all(torch.equal(resumed[name], value) for name, value in whole.tensors().items())
    assert any(not torch.equal(erasure.tensors()[name], value) for name, value in resumed.items())


RATES = {"receler": 3e-2, "advunlearn": 1e-3, "stereo": 1e-4, "aegis": 1e-4}
"""Learning rates at which a few steps go down on tiny networks."""


@pytest.mark.parametrize("method", others_slow(RATES, set(RATES) - {"aegis", "advunlearn"}))
def test_what_was_found_is_unlearnt(sd, model, method):
    options = {"rounds": 0} if method == "stereo" else {}
    erasure = erased(sd, method, lr=RATES[method], iterations=20, retain=0.0, **options)
    evidence = evidence_of(model)
    hardened = ERASERS.load(method).extend(model, erasure, evidence)

    def left(e):
        """The loss on what was found, over some steps."""
        training = begun_on(model, e, evidence)
        return sum(training.gradients(n)[0] for n in range(12) if training.step(n).integer(2))

    assert left(hardened) < 0.9 * left(erasure)


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_of_several_concepts_on_sdxl(xl, draw, method):
    model, before = Model(xl), draw(xl)
    erasure = erased(xl, method, concepts=(DOG, CHURCH), rank=2, retain=0.1)
    hardened = ERASERS.load(method).extend(model, erasure, evidence_of(model))
    assert np.array_equal(draw(xl), before)
    with erasure.attached(xl):
        first = draw(xl)
    with hardened.attached(xl):
        assert np.abs(draw(xl) - first).max() > 1e-6


@pytest.mark.parametrize("family", others_slow(sorted(UNETS), ["sd2"]))
@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_in_every_family_whose_words_attacks_search(method, family):
    pipe = tiny_families.pipeline(family)
    model, before = Model(pipe), latents_of(family)
    erasure = erased(pipe, method, side=tiny_families.CASES[family].side)
    hardened = ERASERS.load(method).extend(model, erasure, evidence_of(model))
    with erasure.attached(pipe):
        first = latents_of(family)
    with hardened.attached(pipe):
        after = latents_of(family)
    assert np.isfinite(after).all()
    assert np.abs(after - first).max() > 1e-6
    assert np.array_equal(latents_of(family), before)


@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_once_more_adds_to_the_story_and_sees_other_latents(sd, model, method):
    erasure = erased(sd, method)
    once = ERASERS.load(method).extend(model, erasure, evidence_of(model))
    seeds = [begun_on(model, e, evidence_of(model)).options["config"].seed for e in (erasure, once)]
    assert len({erasure.provenance.config["seed"], *seeds}) == 3
    twice = ERASERS.load(method).extend(model, once, evidence_of(model, learnable(method)[1][1]))
    assert [past["rounds"] for past in twice.provenance.notes["trained_on"]] == [1, 1]
    assert twice.provenance.notes["steps"] - once.provenance.notes["steps"] == QUICK[method]["iterations"]


def test_what_no_longer_fits_behind_a_word_is_cut(model):
    table = model.token_table().float()
    found = FoundInput("a church", tuple(range(3, 3 + model.max_tokens)))
    text = encoded(model, table, found, table[[2]])
    expected = model.encode_tokens([(2, *found.ids[:-1])])
    torch.testing.assert_close(text.states, expected.states, atol=1e-5, rtol=1e-4)
    assert torch.equal(encoded(model, table, found).states, model.encode_tokens([found.ids]).states)


@pytest.mark.parametrize("method", SEARCHING)
def test_other_evidence_does_not_go_on_from_the_same_snapshot(sd, model, monkeypatch, method):
    erasure, extend = erased(sd, method, every=1), ERASERS.load(method).extend
    with monkeypatch.context() as patch:
        stopping(patch, 2, StoppedError)
        with pytest.raises(StoppedError):
            extend(model, erasure, evidence_of(model))
    told = []
    monkeypatch.setattr(loop, "tell", told.append)
    extend(model, erasure, evidence_of(model, "embeddings"))
    assert told[0].number == 1


@pytest.mark.parametrize("method", SEARCHING)
def test_an_erasure_of_other_weights_is_not_trained_on(sd, model, method):
    erasure = erased(sd, method, rank=4)
    origin = dataclasses.replace(erasure.provenance, config=erasure.provenance.config | {"rank": 3})
    with pytest.raises(efface.EffaceError, match="made for another model, or changed since"):
        ERASERS.load(method).extend(model, dataclasses.replace(erasure, provenance=origin), evidence_of(model))
