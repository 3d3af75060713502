"""SPEED, OCE and double projections against what their papers and codes write, naively and in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import efface
import tiny
from efface.closed_form.nullspace import exact_outside, free_space, own_inside
from efface.closed_form.ridge import RowPairs
from efface.closed_form.rotation import factors, preserved_energy, rotation
from efface.closed_form.speed import constraints, influential, null_projector, speed_map
from efface.closed_form.system import Retention, Rows, joint_map
from efface.concepts.concept import Concept
from efface.erasers import oce, speed
from efface.erasures import WeightDelta
from efface.models.model import Model

D = 12
EYE = torch.eye(D, dtype=torch.float64)


def draw(rows: int, seed: int, width: int = D) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(map_) -> Tensor:
    return EYE + map_.u @ map_.v.T


def naive_speed(w: Tensor, c: Tensor, t: Tensor, p: Tensor, k: Tensor, alpha: float, soft: float) -> Tensor:
    """W + ΔW for one matrix, with explicit inverses."""
    a, d = c.T @ c / len(c), (t - c).T @ c / len(c)
    m = torch.linalg.inv(a @ p + alpha * EYE)
    small = torch.linalg.inv(k.T @ p @ m @ k + soft * torch.eye(k.shape[1], dtype=k.dtype))
    return w + w @ d @ p @ (EYE - m @ k @ small @ k.T @ p) @ m


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("soft", [0.0, 0.5])
def test_speed_is_one_map_for_all_matrices(count, soft):
    c, t, k = draw(count, 0), draw(count, 1), draw(2, 2).T
    p = null_projector(draw(5, 3), 1e-9)
    map_ = speed_map(c, t, p, k, alpha=0.7, soft=soft)
    if not soft:  # any basis of span(P K) constrains alike
        k = torch.linalg.qr(p @ k)[0]
    for height, seed in ((5, 4), (16, 5)):
        w = draw(height, seed)
        torch.testing.assert_close(w @ dense(map_), naive_speed(w, c, t, p, k, 0.7, soft), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [3, 30])
def test_speed_with_exact_constraints_is_the_one_system(count):
    c, t, k, r = draw(count, 0), draw(count, 1), draw(2, 2).T, draw(4, 3)
    p = null_projector(r, 1e-9)
    fixed = torch.linalg.qr(torch.cat([r.T, p @ k], dim=1))[0]  # N = P minus span(P K)
    keep = Retention(gram=0 * EYE, ridge=0.7 * count, hard=fixed)
    expected = dense(joint_map(Rows.stack([(c, t)]), keep, erase=1.0, weight=0.0))
    map_ = speed_map(c, t, p, k, alpha=0.7, soft=0.0)
    torch.testing.assert_close(dense(map_), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(map_.apply(k), k, rtol=0, atol=1e-10)
    torch.testing.assert_close(map_.apply(r.T), r.T, rtol=0, atol=1e-10)


def test_dependent_constraints_count_once():
    c, t, k = draw(3, 0), draw(3, 1), draw(2, 2).T
    once, twice = (speed_map(c, t, EYE, x, alpha=1.0, soft=0.0) for x in (k, torch.cat([k, k], dim=1)))
    torch.testing.assert_close(dense(twice), dense(once), rtol=1e-8, atol=1e-9)


def test_speed_keeps_the_rows_that_its_edit_would_move():
    c, t, r = draw(3, 0), draw(3, 1), draw(40, 2)
    w = draw(20, 3)
    a, d = c.T @ c / 3, (t - c).T @ c / 3
    moved = (r @ (w @ d @ torch.linalg.inv(EYE + a)).T).norm(dim=1)
    assert torch.equal(influential(r, c, t, w.T @ w), r[moved >= moved.mean()])
    assert len(influential(r[:0], c, t, EYE)) == 0


def test_speeds_settings_follow_the_kind():
    people = [Concept(f"person {i}", "person") for i in range(11)]
    assert speed.paper_settings(people).threshold == 1e-4
    assert speed.paper_settings(people[:10]).threshold == 1e-1
    assert speed.paper_settings([Concept("nudity", "explicit")]).soft == 0.5
    assert speed.paper_settings([Concept("church")]).influence


def test_speed_on_a_model(sd):
    church = Concept("church", anchor="cat")
    both = efface.erase(sd, church, method="speed", keep=["a dog"], threshold=1.0)
    values = efface.erase(sd, church, method="speed", keep=["a dog"], threshold=1.0, **speed.PUBLISHED)
    assert isinstance(values, WeightDelta)
    assert all(name.endswith("to_v.weight") for name in values.targets())
    model = Model(sd)
    for projection in model.text_projections():
        if projection.name.endswith("to_v"):
            name, weight = f"{projection.name}.weight", projection.weight().detach()
            torch.testing.assert_close(values.fold(name, weight, 1.0), both.fold(name, weight, 1.0), rtol=0, atol=1e-4)
    k = constraints(model, EYE[:1, :1] * torch.eye(16, dtype=torch.float64))
    begin = model.projection_inputs(model.encode([""]))[0, 0]
    torch.testing.assert_close(k[:, 0].float(), begin)
    with pytest.raises(efface.UsageError, match="alpha is -1"):
        speed.Config(alpha=-1)


HEIGHT = 9


def parts(count: int = 2):
    """A matrix, concept and target rows, and the energy that is preserved."""
    w, r = draw(HEIGHT, 0), draw(6, 3)
    energy = preserved_energy(w, general=EYE, retained=r.T @ r, p_g=2.0, p_n=1.0, ridge=0.5)
    return w, draw(count, 1), draw(count, 2), energy


@pytest.mark.parametrize("erase", [0.0, 1.0, 30.0, 1e6])
def test_oce_is_a_rotation(erase):
    w, c, t, energy = parts()
    q = rotation(w, c, t, energy, erase)
    eye = torch.eye(HEIGHT, dtype=q.dtype)
    torch.testing.assert_close(q.T @ q, eye, rtol=0, atol=1e-12)
    assert float(torch.linalg.det(q)) == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(torch.linalg.svdvals(q @ w), torch.linalg.svdvals(w), rtol=1e-9, atol=1e-9)
    if erase == 0:
        torch.testing.assert_close(q, eye, rtol=0, atol=1e-9)


def test_oce_reflects_what_is_not_the_anchors():
    w, c, t, energy = parts(2)  # two reflections: the determinant needs no turning
    own = torch.linalg.qr(w @ c.T)[0]
    anchor = torch.linalg.qr(w @ t.T)[0]
    outside = torch.linalg.qr(own - anchor @ anchor.T @ own)[0]
    q = rotation(w, c, t, energy, 1e9)
    quotients = torch.linalg.eigvalsh(own.T @ (q + q.T) / 2 @ own)
    assert (quotients < 0).all()
    assert float(torch.linalg.eigvalsh((q + q.T) / 2)[1]) < -0.9
    assert outside.shape[1] == 2


def test_oces_factors_are_the_change():
    w, c, t, energy = parts()
    tall = draw(60, 5, width=50)
    h = preserved_energy(
        tall,
        general=torch.eye(50, dtype=w.dtype),
        retained=torch.zeros(50, 50, dtype=w.dtype),
        p_g=1.0,
        p_n=0.0,
        ridge=1.0,
    )
    q = rotation(tall, draw(1, 6, width=50), draw(1, 7, width=50), h, 1e3)
    thin = factors(q, tall)
    whole = q @ tall - tall
    if thin is not None:
        torch.testing.assert_close(thin[0] @ thin[1], whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    assert factors(rotation(w, c, t, energy, 50.0), w) is None  # of full rank: no smaller than the whole


def test_oces_anchors_may_repeat():
    w, c, t, energy = parts()
    once, twice = (rotation(w, c, x, energy, 5.0) for x in (t[:1], t[:1].repeat(3, 1)))
    torch.testing.assert_close(once, twice, rtol=0, atol=1e-9)


def test_oce_on_a_model(sd):
    church = Concept("church", anchor="cat")
    values = efface.erase(sd, church, method="oce", keep=["a dog"])
    assert all(name.endswith("to_v.weight") for name in values.targets())
    both = efface.erase(sd, church, method="oce", keep=["a dog"], matrices="all")
    assert len(both.targets()) == 2 * len(values.targets())
    weight = Model(sd).text_projections()[1].weight().detach()
    new = values.fold(values.targets()[0], Model(sd).text_projections()[1].weight().detach(), 1.0)
    torch.testing.assert_close(torch.linalg.svdvals(new), torch.linalg.svdvals(weight), rtol=1e-3, atol=1e-4)
    assert oce.paper_settings([Concept("x", "style")]).erase_weight == 500


def test_double_projection_of_one_row_is_the_papers():
    c, r = draw(1, 0), draw(4, 1)
    free = free_space(r.T @ r, 1.0)
    map_ = exact_outside(own_inside(RowPairs.gather([(c, c)]), free.projector), free.projector, 1e-6)
    u2 = torch.linalg.svd(r.T).U[:, 4:]
    x, safe = u2.T @ c[0], c[0] - u2 @ u2.T @ c[0]
    w = draw(7, 2)
    expected = w + torch.outer(w @ (safe - c[0]), x) / x.square().sum() @ u2.T
    torch.testing.assert_close(w @ dense(map_), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(map_.apply(r.T), r.T, rtol=0, atol=1e-9)


def test_double_projection_needs_something_safe():
    with pytest.raises(efface.EffaceError, match="name prompts to keep"):
        efface.erase(tiny.stable_diffusion(), "church", method="double-projection", keep=[])
