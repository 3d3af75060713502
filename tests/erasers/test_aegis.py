"""AEGIS: its loss against the formula, and what it takes out of a gradient."""

from __future__ import annotations

import pytest
import torch

from efface.erasers import aegis
from efface.training import loop
from efface.training.search import around, behind, with_words
from trained import begun, begun_on
from trained_searches import CHURCH, FINDINGS, erased, evidence_of, on_found, predict, roll, squared, started


def test_aegis_takes_out_of_a_gradient_what_leads_away_from_the_original():
    g = [torch.tensor([1.0, -1.0]), torch.tensor([2.0])]
    drift = [torch.tensor([-1.0, 2.0]), torch.tensor([0.5])]
    assert all(a is b for a, b in zip(aegis.without_drift(g, [-d for d in drift], 1.0), g, strict=True))
    assert all(a is b for a, b in zip(aegis.without_drift(g, [0 * d for d in drift], 1.0), g, strict=True))
    whole = aegis.without_drift(g, drift, 1.0)
    assert float(sum((a * d).sum() for a, d in zip(whole, drift, strict=True))) == pytest.approx(0, abs=1e-6)
    half = aegis.without_drift(g, drift, 0.5)
    torch.testing.assert_close(half[0], (g[0] + whole[0]) / 2)


def test_aegis_is_its_formula(model):
    training = begun(model, "aegis", [CHURCH], draw_steps=2, keep=(), eta=1.5)
    started(training)
    kept = training.options["kept"]
    first = {name: kept[name].clone() for name in ("attack-0", "target-0")}
    step = training.step()
    with loop.training(model, False):
        loss = float(training.loss(step))
    table = model.token_table().float()
    other = training.step()
    other.integer(1)
    z = roll(model, "a church", other.integer(2))
    for name, start in first.items():
        torch.testing.assert_close((kept[name] - start).abs(), torch.full_like(start, 1e-3), atol=1e-6, rtol=1e-2)
    c = with_words(model, table, [behind(model, "a church", 1)], kept["attack-0"])
    goal = with_words(model, table, [around(model, "a church", "church")], kept["target-0"])
    assert torch.equal(
        first["target-0"], table[model.token_spans()[0].ids("church")]
    )  # it begins at the concept itself
    target = 2.5 * predict(model, z, "") - 1.5 * model.predict(z.z, z.timestep, goal)
    with training.held.active():
        assert loss == pytest.approx(squared(model.predict(z.z, z.timestep, c), target), rel=1e-4)
    assert all(p.grad is not None for p in training.held.parameters)


# Training on with what attacks found


@pytest.mark.parametrize("finding", FINDINGS)
def test_aegis_trains_on_at_what_was_found(sd, model, finding):
    evidence = evidence_of(model, finding)
    training = begun_on(model, erased(sd, "aegis"), evidence)
    kept = training.options["kept"]
    start = kept["attack-1"].clone()
    number, step = on_found(training)
    z = roll(model, "a church", step.integer(2))
    with loop.training(model, False):
        loss = float(training.loss(training.step(number)))
    (found,) = evidence.found
    table = model.token_table().float()
    if finding == "states":
        attacked = evidence.text
        assert torch.equal(kept["attack-1"], start)
    else:
        own = table[list(found.ids)] if found.embeddings is None else found.embeddings
        attacked = model.encode_tokens([(0, *found.ids)], torch.cat([kept["attack-1"], own])[None])
        torch.testing.assert_close((kept["attack-1"] - start).abs(), torch.full_like(start, 1e-3), atol=1e-6, rtol=1e-2)
    goal = with_words(model, table, [around(model, "a church", "church")], kept["target-1"])
    target = 2 * predict(model, z, "") - model.predict(z.z, z.timestep, goal)
    with training.held.active():
        assert loss == pytest.approx(squared(model.predict(z.z, z.timestep, attacked), target), rel=1e-4)


def test_aegis_measures_its_drift_from_the_original_with_all_of_its_weight(sd, model, monkeypatch):
    erasure = erased(sd, "aegis")
    seen = []
    monkeypatch.setattr(aegis, "without_drift", lambda g, drift, omega: (seen.append((drift, omega)), list(g))[1])
    training = begun_on(model, erasure, evidence_of(model))
    training.gradients(0)
    ((drift, omega),) = seen
    assert omega == 1.0
    names = training.held.names
    for name, change in zip(names, drift, strict=True):
        torch.testing.assert_close(change, erasure.deltas[name], atol=1e-6, rtol=1e-4)
