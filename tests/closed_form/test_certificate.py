"""Edits outside the retained span, and what any state can bring back, against brute force."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny
from efface.closed_form.certificate import certificate, largest_norm, recoverable
from efface.closed_form.maps import LowRankMap
from efface.closed_form.nullspace import exact_outside, free_space, ridge_outside, targets_inside
from efface.closed_form.ridge import RowPairs
from efface.models.model import Model

WIDTH = 12


def rows(count, seed):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def parts():
    """Three concept rows, their targets, and four retained rows."""
    c, t, r = rows(3, 0), rows(3, 1), rows(4, 2)
    return c, t, r, RowPairs.gather([(c, t)]), free_space(r.T @ r, 1.0)


@pytest.mark.parametrize("many", [False, True], ids=["few rows", "more rows than the width"])
def test_what_is_retained_stays_exactly(parts, many):
    c, t, r, pairs, free = parts
    if many:
        c, t = rows(30, 0), rows(30, 1)
        pairs = RowPairs.gather([(c, t)])
    assert free.dimensions == WIDTH - 4
    for map_ in (ridge_outside(pairs, free.projector, 0.1), exact_outside(pairs, free.projector, 1e-9)):
        torch.testing.assert_close(map_.apply(r.T), r.T)


def test_ridge_edit_equals_the_normal_equations(parts):
    c, t, _, pairs, free = parts
    p = free.projector
    expected = (t - c).T @ c @ p @ torch.linalg.inv(0.1 * torch.eye(WIDTH, dtype=c.dtype) + p @ c.T @ c @ p) @ p
    map_ = ridge_outside(pairs, p, 0.1)
    torch.testing.assert_close(map_.u @ map_.v.T, expected)


def test_exact_edit_equals_the_pseudo_inverse_and_hits_the_target(parts):
    c, t, _, pairs, free = parts
    map_ = exact_outside(pairs, free.projector, 1e-9)
    torch.testing.assert_close(map_.u @ map_.v.T, (t - c).T @ torch.linalg.pinv(free.projector @ c.T))
    torch.testing.assert_close(map_.apply(c.T), t.T)


def test_targets_inside_make_the_map_singular(parts):
    c, t, _, pairs, free = parts
    map_ = exact_outside(targets_inside(pairs, free.projector), free.projector, 1e-9)
    inside = t - t @ free.projector
    torch.testing.assert_close(map_.apply((c - inside).T), torch.zeros(WIDTH, 3, dtype=c.dtype), atol=1e-9, rtol=0)
    assert torch.linalg.svdvals(map_.apply(torch.eye(WIDTH, dtype=c.dtype))).min() < 1e-9


def test_a_share_of_the_energy_leaves_room_where_everything_is_spanned():
    r = rows(100, 3) * torch.linspace(3, 0.01, WIDTH, dtype=torch.float64)
    assert free_space(r.T @ r, 1.0).dimensions == 0
    assert free_space(r.T @ r, 0.9).dimensions > 0
    assert free_space(torch.zeros(WIDTH, WIDTH, dtype=torch.float64), 0.9).dimensions == WIDTH


def brute_force(m, s, c, r):
    """Projected gradient descent on the ball."""
    half = torch.linalg.cholesky(s).T
    y = torch.zeros(WIDTH, dtype=c.dtype)
    size = 1 / torch.linalg.eigvalsh(m.T @ s @ m).max()
    for _ in range(20_000):
        y = y - size * (m.T @ s @ (m @ y - c))
        y = y * min(1.0, r / float(y.norm()))
    return 1 - float((half @ (m @ y - c)).norm() / (half @ c).norm())


@pytest.mark.parametrize("r", [0.3, 1.0, 4.0])
def test_recoverable_equals_brute_force(parts, r):
    c, _, _, pairs, free = parts
    map_ = ridge_outside(pairs, free.projector, 0.5)
    w = rows(40, 5)
    s = w.T @ w
    found = recoverable(map_, s, c, [r])[0]
    m = map_.apply(torch.eye(WIDTH, dtype=c.dtype))
    for share, row in zip(found, c, strict=True):
        assert float(share) == pytest.approx(brute_force(m, s, row, r), abs=2e-4)


def test_without_a_map_a_state_as_large_as_the_concept_recovers_all_of_it():
    c, w = rows(3, 0), rows(40, 5)
    shares = recoverable(LowRankMap.identity(WIDTH), w.T @ w, c, [float(c.norm(dim=1).max()), 0.01])
    torch.testing.assert_close(shares[0], torch.ones(3, dtype=c.dtype), atol=1e-6, rtol=0)
    assert (shares[1] < 0.05).all()


def test_invertible_maps_give_everything_back_in_the_end_and_projections_do_not(parts):
    c, _, _, pairs, free = parts
    w = rows(40, 5)
    s = w.T @ w
    uce = pairs.edit(torch.zeros(WIDTH, WIDTH, dtype=c.dtype), erase=1, preserve=0, ridge=0.01)
    project = exact_outside(targets_inside(pairs, free.projector), free.projector, 1e-9)
    assert (recoverable(uce, s, c, [1e9]) > 0.999).all()
    assert (recoverable(project, s, c, [1e9]) < 0.99).all()


def test_certificate_of_an_erasure():
    pipe = tiny.stable_diffusion()
    concept = efface.Concept("church", anchor="cat")
    curves = {
        m: certificate(Model(pipe), efface.erase(pipe, concept, method=m, keep=["a dog"])) for m in ("uce", "project")
    }
    for curve in curves.values():
        assert list(curve.recoverable) == sorted(curve.recoverable)
        assert all(w >= m - 1e-9 for w, m in zip(curve.worst, curve.recoverable, strict=True))
        assert curve.reachable > 1 - 10 * torch.finfo(torch.float32).eps  # of unit gain and no bias: 1 itself
    assert curves["uce"].recoverable[-1] > curves["project"].recoverable[-1]


def test_no_text_state_is_larger_than_the_bound():
    pipe = tiny.stable_diffusion()
    states = Model(pipe).encode(["a church", "", "garbage truck in noto style"]).states
    # The last normalisation reaches the bound itself: each state's values are rounded on their own.
    assert float(states.norm(dim=-1).max()) <= largest_norm(Model(pipe)) * (1 + 10 * torch.finfo(states.dtype).eps)


def test_only_text_maps_have_one():
    pipe = tiny.stable_diffusion()
    delta = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="uce", target="tensor", keep=[])
    with pytest.raises(efface.EffaceError, match="needs a text map"):
        certificate(Model(pipe), delta)  # type: ignore[arg-type]
