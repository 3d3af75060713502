"""Receler: its loss against the formula, its attack, and adapters that are nothing at first."""

from __future__ import annotations

import pytest
import torch

from efface.erasers import receler
from efface.training.adapters import outside
from efface.training.latents import rolled
from efface.training.maps import concept_mask, resized
from trained import begun, begun_on
from trained_searches import (
    CHURCH,
    FINDINGS,
    QUICK,
    erased,
    evidence_of,
    on_found,
    predict,
    roll,
    some_latents,
    squared,
    started,
)


@pytest.mark.parametrize("attack_steps", [0, 2])
def test_receler_is_its_formula(model, attack_steps):
    options = {"draw_steps": 2, "rank": 4, "attack_rows": 3, "attack_steps": attack_steps, "keep": (), "locality": 0.7}
    training = begun(model, "receler", [CHURCH], **options)
    started(training)
    step = training.step()
    step.integer(1)  # which prompt
    after = step.integer(2)
    text, rows = model.encode(["a church"]), training.options["kept"]["0"]
    with training.held.active():
        z = roll(model, "a church", after)
    loss = training.gradients()[0]
    if attack_steps:  # the attacked states are the rows, and they have moved
        text = receler.with_rows(text, rows)
        assert torch.equal(text.states[0, 4:7], rows)
        assert not torch.equal(rows, model.encode(["a church"]).states[0, 4:7])
    target = 2 * predict(model, z, "") - predict(model, z, "a church")
    with training.held.active():
        output = model.predict(z.z, z.timestep, text)
    away = ~concept_mask(model, z, model.encode(["a church"]), [2])
    terms = []
    for change in (c.detach() for c in training.held.changes):
        inside = resized(away, change.shape[1])[0]
        terms.append(
            sum(float(change[0, k].double().square().mean()) for k in inside.nonzero()) / max(1, int(inside.sum()))
        )
    assert len(terms) == len(training.held.attentions)
    assert loss == pytest.approx(squared(output, target) + 0.7 * sum(terms) / len(terms), rel=1e-3)


def test_recelers_attack_acts(model):
    training = begun(model, "receler", [CHURCH], draw_steps=2, rank=4, attack_rows=3, attack_steps=3, keep=())
    started(training, 0.2)
    c, p = model.encode(["a church"]), training.options["kept"]["0"]
    first = p.clone()
    step = training.step()
    step.integer(1)
    with training.held.active():
        z = roll(model, "a church", step.integer(2))
    training.gradients()
    before = model.predict(z.z, z.timestep, c)
    with training.held.active([v.detach() for v in training.held.parameters]), torch.no_grad():
        apart = [squared(model.predict(z.z, z.timestep, receler.with_rows(c, rows)), before) for rows in (first, p)]
    assert apart[1] < apart[0]


def test_adapters_change_nothing_at_first_and_everything_is_inside_a_whole_mask(model):
    training = begun(model, "receler", [CHURCH], rank=4, keep=())
    z = some_latents(model)
    before = predict(model, z, "a church")
    with training.held.active():
        assert torch.equal(predict(model, z, "a church"), before)
    change = torch.randn(1, 16, 8)
    assert float(outside([change], torch.ones(1, 1, 4, 4, dtype=torch.bool))) == 0
    assert float(outside([change], torch.zeros(1, 1, 4, 4, dtype=torch.bool))) == pytest.approx(
        squared(change, 0 * change)
    )


# Training on with what attacks found


@pytest.mark.parametrize("finding", FINDINGS)
def test_receler_trains_on_at_what_was_found(sd, model, finding):
    erasure = erased(sd, "receler", attack_steps=0, locality=0.0)
    evidence = evidence_of(model, finding)
    training = begun_on(model, erasure, evidence)
    number, step = on_found(training)
    with training.held.active(), torch.no_grad():
        z = rolled(model, evidence.text, step.integer(2), 11, steps=2, guidance=3.0, side=None)
    target = 2 * predict(model, z, "") - predict(model, z, "a church")
    with training.held.active():
        expected = squared(model.predict(z.z, z.timestep, evidence.text), target)
    assert training.gradients(number)[0] == pytest.approx(expected, rel=1e-4)


def test_recelers_attack_begins_behind_what_was_found(sd, model):
    evidence = evidence_of(model)
    training = begun_on(model, erased(sd, "receler"), evidence)
    number, _ = on_found(training)
    rows = training.options["kept"]["1"]
    assert torch.equal(rows, receler.rows_of(evidence.text, QUICK["receler"]["attack_rows"]))
    first = rows.clone()
    training.gradients(number)
    assert not torch.equal(rows, first)
