"""Sculpting Memory: which entries are trained, which never move, and its loss against the formula."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import efface
from efface.erasers import ERASERS
from efface.models.model import Model
from efface.training.entries import Entries, EntryAdam
from efface.training.images import draw_concept_images
from efface.training.schedules import one_cycle, restarts
from trained import begun

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
TRUCK = efface.Concept("truck", anchor="dog", templates=("a {}",))
OPTIONS = {"images": 2, "batch": 2, "draw_steps": 3, "iterations": 3, "warmup": 1, "keep": ()}


def entries_of(*sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    parameters = [torch.randn(size, generator=g).requires_grad_() for size in sizes]
    return Entries(parameters), g


def grown(entries, g):
    entries.add([torch.randn(p.shape, generator=g) for p in entries.parameters])


@settings(max_examples=20, deadline=None)
@given(density=st.floats(0.05, 1), share=st.floats(0, 1), rounds=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_density_stays_and_frozen_entries_never_enter(density, share, rounds, seed):
    entries, g = entries_of((4, 5), (7,), seed=seed)
    grown(entries, g)
    entries.choose(density)
    first = [active.clone() for active in entries.active]
    assert [int(a.sum()) for a in first] == [int(density * p.numel()) for p in entries.parameters]
    entries.begin(freeze=True)
    grown(entries, g)
    entries.choose(density)
    counts = [int(a.sum()) for a in entries.active]
    for _ in range(rounds):
        grown(entries, g)
        entries.turn_over(share)
        assert [int(a.sum()) for a in entries.active] == counts
        assert not any((a & f).any() for a, f in zip(entries.active, first, strict=True))
        assert not any(total.any() for total in entries.sums)


def test_the_largest_sums_enter_and_the_least_leave():
    entries, _ = entries_of((6,))
    entries.add([torch.tensor([1.0, -5.0, 3.0, 0.5, -0.1, 2.0])])
    entries.choose(0.5)
    assert entries.active[0].tolist() == [False, True, True, False, False, True]
    entries.add([torch.tensor([-9.0, 0.1, 2.0, 1.0, 0.0, 3.0])])
    entries.turn_over(0.4)
    assert entries.active[0].tolist() == [True, False, True, False, False, True]


def test_gradients_that_cancel_choose_nothing():
    """|Σ g| and not Σ |g|: what two batches disagree on is no sign of a concept."""
    entries, _ = entries_of((2,))
    entries.add([torch.tensor([9.0, 1.0])])
    entries.add([torch.tensor([-9.0, 1.0])])
    entries.choose(0.5)
    assert entries.active[0].tolist() == [False, True]


def test_an_entry_moves_as_under_adam_since_it_entered_and_not_at_all_after_it_left():
    entries, g = entries_of((3,))
    p = entries.parameters[0]
    start = p.detach().clone()
    adam = EntryAdam(entries, 0.1)
    gradients = [torch.randn(3, generator=g) for _ in range(6)]
    masks = [[True, False, True]] * 3 + [[False, True, True]] * 3
    for number, (gradient, mask) in enumerate(zip(gradients, masks, strict=True)):
        entries.active[0].copy_(torch.tensor(mask))
        p.grad = gradient.clone()
        if number == 3:
            left = p.detach()[0].clone()
        adam.step()
    alone = []
    for span in (slice(0, 3), slice(3, 6), slice(0, 6)):
        q = start[len(alone)].clone().requires_grad_()
        plain = torch.optim.Adam([q], lr=0.1)
        for gradient in gradients[span]:
            q.grad = gradient[len(alone)].clone()
            plain.step()
        alone.append(float(q.detach()))
    assert p.detach()[0] == left
    torch.testing.assert_close(p.detach(), torch.tensor(alone), atol=1e-6, rtol=1e-5)


def test_shares_of_entries_that_change_places():
    sculpting = ERASERS.load("sculpting")
    config = sculpting.Config()
    found = {step + 1: sculpting.share(config, step) for step in range(500) if sculpting.share(config, step)}
    assert list(found) == [100, 200, 300, 400]
    assert list(found.values()) == pytest.approx([0.1 * (1 + cos(pi * epoch / 10)) for epoch in (1, 3, 5, 7)])


def test_learning_rates():
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.0, total_steps=40, cycle_momentum=False)
    for number in range(40):
        assert one_cycle(number, 40) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        if number < 39:
            torchs.step()
    assert [restarts(n, 16, 4, 3) for n in (0, 2, 4, 6, 8, 12)] == pytest.approx([0, 0.5, 1, 0.5, 1, 1])


def test_sculpting_is_its_formula(sd):
    model = Model(sd)
    training = begun(model, "sculpting", [CHURCH, TRUCK], **OPTIONS | {"align": 0.5, "distil": 0.25})
    g = torch.Generator().manual_seed(0)
    entries = training.options["kept"]
    for turn, (name, anchor) in enumerate((("a church", "a cat"), ("a truck", "a dog"))):
        for p in training.held.parameters:
            p.data += 0.05 * torch.randn(p.shape, generator=g)
        first = 3 * turn
        previous = [p.detach().clone() for p in training.held.parameters]
        training.gradients(first)  # the warm-up, in which nothing moves
        for p in training.held.parameters:
            p.data += 0.05 * torch.randn(p.shape, generator=g)
        loss, gradients = training.gradients(first + 1)
        draw = {"steps": 3, "guidance": 7.5, "side": None}
        of_a, of_c = (draw_concept_images(model, [prompt], 2, draw) for prompt in (anchor, name))
        x_c, x_a = of_c.batch(2, 0, first + 1, 0), of_a.batch(2, 0, first + 1, 1)
        a, c = (model.encode([prompt] * 2) for prompt in (anchor, name))

        def predicted(x, text):
            noisy = model.to_noisy(x.clean, x.noise, x.timesteps)
            return model.predict(noisy, x.timesteps, text).detach().double()

        with training.held.active(previous):
            taught = predicted(x_a, a)
        with training.held.active():
            forget = (predicted(x_c, c) - predicted(x_c, a)).square().mean()
            align = (predicted(x_a, a) - x_a.noise.double()).square().mean()
            distil = (predicted(x_a, a) - taught).square().mean()
        assert loss == pytest.approx(float(forget + 0.5 * align + 0.25 * distil), rel=1e-4)
        for gradient, active in zip(gradients, entries.active, strict=True):
            assert not gradient[~active].any()


def test_every_concept_has_entries_of_its_own(sd):
    def erased(*concepts, **options):
        return efface.erase(sd, list(concepts), method="sculpting", **OPTIONS | {"lr": 1e-1} | options).deltas

    one, both = erased(CHURCH), erased(CHURCH, TRUCK)
    for name, first in one.items():
        moved = first != 0
        assert 0 < int(moved.sum()) <= max(1, first.numel() // 2)
        assert torch.equal(both[name][moved], first[moved])
    assert any((delta[one[name] == 0] != 0).any() for name, delta in both.items())
    loose = erased(CHURCH, TRUCK, freeze=False)
    assert any(not torch.equal(loose[name][first != 0], first[first != 0]) for name, first in one.items())


def test_factors_have_no_entries_to_choose():
    with pytest.raises(efface.UsageError, match="entries of weights are chosen here"):
        ERASERS.load("sculpting").Config(rank=4)
