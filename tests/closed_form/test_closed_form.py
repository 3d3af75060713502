"""The algebra in M-form against the naive per-matrix procedures, to 1e-9 of the change."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import naive
from efface.closed_form.gram import key_value_gram
from efface.closed_form.maps import LowRankMap
from efface.closed_form.ridge import RowPairs, gram_of
from efface.erasers.rece import derive

D = 12
FORMS = ("regzero", "standard", "1st", "2nd", "both")


def problem(rows: int, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Five matrices of different heights, concept and target rows, retained rows."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    # Targets near the concept keep M well conditioned, so that the naive inverses are exact enough to compare with.
    c = draw(rows, D)
    return [draw(h, D) for h in (5, 8, 16, 7, 9)], c, c + 0.3 * draw(rows, D), draw(6, D)


def assert_same_edit(ws: list[Tensor], map_: LowRankMap, expected: list[Tensor]) -> None:
    """W M must be the expected matrices, within 1e-9 of the change."""
    for w, new in zip(ws, expected, strict=True):
        change = (new - w).norm()
        assert change > 1e-6
        assert (w + (w @ map_.u) @ map_.v.T - new).norm() <= 1e-9 * change


@pytest.mark.parametrize("rows", [1, 4, D - 1, D, 40], ids=lambda n: f"rows{n}")
@pytest.mark.parametrize(("e", "p", "lam"), [(1, 1, 0.5), (1, 0.1, 0.1), (3, 0, 1e-3), (0.2, 2, 5)])
def test_uce_is_one_map_for_all_matrices(rows, e, p, lam):
    ws, c, t, r = problem(rows)
    map_ = RowPairs.gather([(c, t)]).edit(gram_of([r], D), erase=e, preserve=p, ridge=lam)
    assert map_.u.shape[1] == (rows if rows < D else D)
    assert_same_edit(ws, map_, [naive.uce(w, c, t, r, e, p, lam) for w in ws])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [3, 30])
@pytest.mark.parametrize("epochs", [1, 3])
def test_rece_in_m_form(form, rows, epochs):
    ws, c, t, r = problem(rows)
    retained, s, pairs = gram_of([r], D), key_value_gram(ws, blocks=3), RowPairs.gather([(c, t)])
    map_ = pairs.edit(retained, erase=1, preserve=1, ridge=0.1)
    for _ in range(epochs):
        map_ = map_.then(derive(pairs, map_, s, 0.05, form).edit(retained, erase=1, preserve=0.1, ridge=0.1))
    expected = naive.rece(ws, c, t, r, e=1, p=0.1, first_p=1, lam=0.1, lam_r=0.05, epochs=epochs, form=form)
    assert_same_edit(ws, map_, expected)


@pytest.mark.parametrize("form", FORMS)
def test_derived_embeddings(form):
    ws, c, t, r = problem(4)
    pairs = RowPairs.gather([(c, t)])
    map_ = pairs.edit(gram_of([r], D), erase=1, preserve=1, ridge=0.1)
    new = [w + (w @ map_.u) @ map_.v.T for w in ws]
    found = derive(pairs, map_, key_value_gram(ws), 0.05, form)
    expected = naive.derived(ws, new, c, t, 0.05, form)
    torch.testing.assert_close(found.rows[0], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.cc, expected.T @ expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.tc, t.T @ expected, rtol=1e-9, atol=1e-12)


def test_regzero_minimises_its_objective():
    ws, c, t, r = problem(4)
    pairs = RowPairs.gather([(c, t)])
    map_ = pairs.edit(gram_of([r], D), erase=1, preserve=1, ridge=0.1)
    new = [w + (w @ map_.u) @ map_.v.T for w in ws]

    def objective(x: Tensor) -> Tensor:
        return sum((n @ x - w @ c[0]).square().sum() for n, w in zip(new, ws, strict=True)) + 0.05 * x.square().sum()

    found = derive(pairs, map_, key_value_gram(ws), 0.05, "regzero").rows[0][0]
    gradient = torch.autograd.functional.jacobian(objective, found)
    assert gradient.norm() < 1e-9 * objective(c[0])


@pytest.mark.parametrize("count", [2, 2 * D], ids=["fewer rows than the width", "more"])
def test_surrogate_1st_of_matrices_that_are_wider_than_high(count):
    """Of all embeddings that come nearest in values the shortest, by pseudo-inverses."""
    g = torch.Generator().manual_seed(3)
    w = torch.randn(D - 4, D, generator=g, dtype=torch.float64)
    c, t, r = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (count, count, 5))
    pairs = RowPairs.gather([(c, t)])
    map_ = pairs.edit(gram_of([r], D), erase=1, preserve=1, ridge=0.5)
    new = w + (w @ map_.u) @ map_.v.T
    found = derive(pairs, map_, w.T @ w, 0.3, "1st")
    expected = (torch.linalg.pinv(new) @ (w + 0.3 * new) @ c.T / 1.3).T
    torch.testing.assert_close(found.cc, expected.T @ expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.tc, t.T @ expected, rtol=1e-7, atol=1e-8)


def test_surrogate_1st_needs_all_that_the_matrices_read():
    from efface.errors import EffaceError

    _, c, t, _ = problem(3)
    w = torch.eye(D, dtype=torch.float64)[: D - 1]
    gone = LowRankMap(-w[:1].T, w[:1].T)  # takes away what the first row reads
    with pytest.raises(EffaceError, match="regzero"):
        derive(RowPairs.gather([(c, t)]), gone, w.T @ w, 0.1, "1st")


@pytest.mark.parametrize(("condition", "warned"), [(1e9, False), (3e10, True), (1e13, True)])
@pytest.mark.parametrize("form", FORMS)
def test_a_large_condition_number_is_warned_of_where_the_matrix_is_inverted(form, condition, warned):
    _, c, t, _ = problem(3)
    basis = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    s = basis * torch.logspace(0, -math.log10(condition), D, dtype=torch.float64) @ basis.T
    expected = pytest.warns(UserWarning, match="condition number is .*, above 1e\\+10, of MᵀSM")
    with expected if warned and form == "1st" else nullcontext():
        derive(RowPairs.gather([(c, t)]), LowRankMap.identity(D), (s + s.T) / 2, 0.1, form)


@settings(max_examples=25, deadline=None)
@given(ranks=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 20)), seed=st.integers(0, 2**16))
def test_composition_is_the_product_in_order(ranks, seed):
    g = torch.Generator().manual_seed(seed)
    maps = [LowRankMap(*(torch.randn(D, k, generator=g, dtype=torch.float64) for _ in "uv")) for k in ranks]
    dense = [torch.eye(D, dtype=torch.float64) + m.u @ m.v.T for m in maps]
    both = maps[0].then(maps[1]).then(maps[2])
    x = torch.randn(D, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(both.apply(x), dense[0] @ dense[1] @ dense[2] @ x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(both.apply_transposed(x), (dense[0] @ dense[1] @ dense[2]).T @ x, rtol=1e-8, atol=1e-8)
    assert both.u.shape[1] <= max(D, sum(ranks[:1]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), rows=st.integers(1, 20))
def test_retained_rows_are_kept_as_their_weight_grows(seed, rows):
    g = torch.Generator().manual_seed(seed)
    c, t, r = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (rows, rows, 3))
    damage = []
    for preserve in (0.1, 10.0, 1000.0):
        m = RowPairs.gather([(c, t)]).edit(gram_of([r], D), erase=1, preserve=preserve, ridge=0.1)
        damage.append(float((m.apply(r.T) - r.T).norm()))
    assert damage[0] >= damage[1] >= damage[2]
    assert damage[2] < 0.2 * damage[0] + 1e-9


def test_gram_by_blocks():
    ws = problem(1)[0]
    torch.testing.assert_close(key_value_gram(ws, blocks=5), sum(w.T @ w for w in ws), rtol=1e-12, atol=1e-12)
