"""Trained erasers: each loss against the formula of its paper, and what all of them promise."""

from __future__ import annotations

import pytest
import torch

import efface
from efface.erasers import ERASERS
from efface.erasers.base import published_config
from efface.training.latents import rolled
from trained import begun

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
QUICK = {
    "esd": {"iterations": 3, "draw_steps": 3, "lr": 1e-2},
    "sdd": {"iterations": 3, "draw_steps": 3, "lr": 1e-2, "decay": 0.5},
    "ca": {"iterations": 3, "draw_steps": 3, "lr": 1e-2, "images": 2, "batch": 2},
    "doco": {"iterations": 3, "warmup": 1, "draw_steps": 3, "lr": 1e-2, "images": 2, "batch": 2},
    "sculpting": {"iterations": 3, "warmup": 1, "draw_steps": 3, "lr": 1e-1, "images": 2, "batch": 2},
    "kpop": {"iterations": 3, "draw_steps": 3, "lr": 1e-2},
    "spm": {"iterations": 3, "warmup": 0, "draw_steps": 3, "lr": 1e-2},
}
"""Options with which each method takes a second."""
RANKS = {"sculpting": (None,), "spm": (1, 2)}
"""Ranks of methods that do not take both none and some."""
PUBLISHED = {
    "esd": {"form": "2023", "eta": 1.0, "lr": 1e-5, "iterations": 1000},
    "ca": {"images": 1000, "detach_bos": True, "lr": 1.6e-5, "batch": 8, "where": "text"},
    "sdd": {"iterations": 1500, "lr": 1e-5, "decay": 0.999, "clip": 1.0},
    "doco": {
        "iterations": 2000, "warmup": 1000, "lr": 6e-6 * 8, "strength": 1.0, "projection": "released", "batch": 8, "images": 1000,
        "where": "text", "levels": 1000, "clip": 1.0,
    },
    "sculpting": {
        "iterations": 500, "warmup": 50, "density": 0.5, "turnover": 0.2, "turn_every": 100, "until": 0.8, "align": 0.25,
        "distil": 0.0, "freeze": False, "lr": 3e-6, "batch": 2, "images": 100, "where": "cross",
    },
    "kpop": {},
    "spm": {
        "iterations": 3000, "rank": 1, "lr": 1e-4, "warmup": 500, "cycles": 3, "eta": 1.0, "anchoring": 1000.0, "anchors": "noise",
        "sampled": 4, "draw_steps": 30, "transport": "published",
    },
}  # fmt: skip
"""What the authors of each method ran."""
RUNS = [(method, rank) for method in QUICK for rank in RANKS.get(method, (None, 2))]


def predict(model, z, prompt):
    return model.predict(z.z, z.timestep, model.encode([prompt]))


def squared(a, b):
    return float((a.detach().double() - b.detach().double()).square().mean())


def started(training, held_scale=0.0):
    """Move the trained values a little, so that edited and frozen model differ."""
    g = torch.Generator().manual_seed(0)
    for p in training.held.parameters:
        p.data += held_scale * torch.randn(p.shape, generator=g)


@pytest.mark.parametrize("form", ["today", "2023"])
def test_esd_is_its_formula(model, form):
    options = {"form": form, "eta": 1.5, "draw_steps": 4, "keep": ()}
    training = begun(model, "esd", [CHURCH], **options)
    started(training, 0.05)
    step = training.step()
    step.integer(1)  # which prompt
    after = step.integer(4)
    roll = {"steps": 4, "guidance": 3.0, "side": None}
    text = model.encode(["a church"])
    if form == "today":
        z = rolled(model, text, after, 11, **roll)
        target = predict(model, z, "a church") - 1.5 * (predict(model, z, "a church") - predict(model, z, ""))
    else:
        with training.held.active(), torch.no_grad():
            z = rolled(model, text, after, 11, **roll)
        target = predict(model, z, "") - 1.5 * (predict(model, z, "a church") - predict(model, z, ""))
    with training.held.active():
        expected = squared(predict(model, z, "a church"), target)
    assert training.gradients()[0] == pytest.approx(expected, rel=1e-4)


def test_esd_of_today_with_one_more_is_that_of_2023():
    config = ERASERS.load("esd").Config
    weights = ERASERS.load("esd").weights
    assert weights(config(form="today", eta=2.0)) == weights(config(form="2023", eta=1.0)) == (-1.0, 2.0)
    assert weights(config(form="today", eta=0.0)) == (1.0, 0.0)


@pytest.mark.parametrize(("form", "eta"), [("today", 0.0), ("2023", -1.0)])
def test_esd_towards_the_concept_itself_moves_nothing(model, form, eta):
    loss, gradients = begun(model, "esd", [CHURCH], form=form, eta=eta, draw_steps=3, keep=()).gradients()
    assert loss < 1e-9
    assert all(g.abs().max() < 1e-4 for g in gradients)


def test_sdd_begins_like_esd_of_2023_without_strength(model):
    options = {"draw_steps": 3, "keep": ()}
    bare = efface.Concept("church", anchor="cat")
    sdd, esd = (begun(model, m, [bare], **options | o) for m, o in (("sdd", {}), ("esd", {"form": "2023", "eta": 0.0})))
    step = sdd.step()
    after = step.integer(3)
    z = rolled(model, model.encode(["church"]), after, 11, steps=3, guidance=3.0, side=None)
    assert sdd.gradients()[0] == pytest.approx(squared(predict(model, z, "church"), predict(model, z, "")), rel=1e-4)
    assert len(sdd.held.parameters) == len(esd.held.parameters)


def test_ca_of_an_anchor_that_is_the_concept_never_moves(model):
    same = efface.Concept("church", anchor="church", templates=("a {}",))
    training = begun(model, "ca", [same], images=2, batch=2, draw_steps=3)
    started(training, 0.05)
    loss, gradients = training.gradients()
    assert loss == 0
    assert all(g.abs().max() == 0 for g in gradients)


def test_ca_is_its_formula(model):
    training = begun(model, "ca", [CHURCH], images=2, batch=2, draw_steps=3, prior=0.5)
    started(training, 0.05)
    from efface.training.images import draw_concept_images

    pictures = draw_concept_images(model, ["a cat"], 2, {"steps": 3, "guidance": 6.0, "side": None})
    x = pictures.batch(2, 0, 0)
    noisy = model.to_noisy(x.clean, x.noise, x.timesteps)
    with training.held.active():
        c, a = (model.predict(noisy, x.timesteps, model.encode([p] * 2)) for p in ("a church", "a cat"))
    assert training.gradients()[0] == pytest.approx(squared(c, a) + 0.5 * squared(a, x.noise), rel=1e-4)


def test_the_begin_token_can_be_left_out_of_the_training(model):
    kept = [begun(model, "ca", [CHURCH], images=2, batch=2, draw_steps=3, detach_bos=b).gradients() for b in (0, 1)]
    assert kept[0][0] == kept[1][0]
    assert any(not torch.equal(a, b) for a, b in zip(kept[0][1], kept[1][1], strict=True))


@pytest.mark.parametrize(("method", "rank"), RUNS)
def test_every_method_erases_into_a_file_and_comes_off(sd, draw, tmp_path, method, rank):
    before = draw(sd)
    erasure = efface.erase(sd, CHURCH, method=method, rank=rank, keep=["a dog"], **QUICK[method])
    assert (draw(sd) == before).all()
    assert erasure.provenance.notes["steps"] == 3
    assert erasure.provenance.config["rank"] == rank
    erasure.save(tmp_path / "church.safetensors")
    loaded = efface.Erasure.load(tmp_path / "church.safetensors")
    with loaded.attached(sd):
        after = draw(sd)
    assert (after != before).any()
    assert (draw(sd) == before).all()


@pytest.mark.parametrize("method", QUICK)
def test_as_published_is_what_the_authors_ran(method):
    config = published_config(ERASERS.load(method), [CHURCH], {})
    assert {name: getattr(config, name) for name in PUBLISHED[method]} == PUBLISHED[method]
    assert config.keep == ()
    assert set(ERASERS.load(method).PUBLISHED) <= set(PUBLISHED[method])


@pytest.mark.parametrize("method", QUICK)
def test_an_interrupted_method_says_so_and_goes_on_to_the_same_bits(sd, method, monkeypatch):
    told = []

    def stop(step):
        told.append(step)
        if step.number == 2:
            raise KeyboardInterrupt

    options = QUICK[method] | {"every": 1, "keep": ["a dog"], "retain": 1.0, "seed": 3, "draw_steps": 2}
    concepts = [CHURCH]
    if method in RANKS:  # one concept after the other
        concepts.append(efface.Concept("truck", anchor="cat"))
        options["iterations"] = 2
    whole = efface.erase(sd, concepts, method=method, **options)
    with monkeypatch.context() as patch:
        patch.setattr("efface.training.loop.tell", stop)
        begun = efface.erase(sd, concepts, method=method, **options)
    assert begun.provenance.notes["steps"] == 2
    assert begun.provenance.notes["unfinished"] == whole.provenance.notes["steps"] - 2
    assert "unfinished" not in whole.provenance.notes
    with begun.attached(sd):
        pass
    with monkeypatch.context() as patch:
        patch.setattr("efface.training.loop.tell", told.append)
        resumed = efface.erase(sd, concepts, method=method, **options)
    assert [step[:2] for step in told[:3]] == [(i, whole.provenance.notes["steps"]) for i in (1, 2, 2)]
    assert all(torch.equal(resumed.tensors()[name], value) for name, value in whole.tensors().items())
    assert any(not torch.equal(begun.tensors()[name], value) for name, value in whole.tensors().items())
