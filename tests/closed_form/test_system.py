"""The one system against the methods that are special cases of it, spelled out naively in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import naive
from efface.closed_form.blocks import compress
from efface.closed_form.nullspace import exact_outside, free_space
from efface.closed_form.ridge import RowPairs
from efface.closed_form.system import Measure, Retention, Rows, joint_map, solve_dual, solve_primal
from efface.closed_form.weight import balance, find_weight, weight_for

D = 12
EYE = torch.eye(D, dtype=torch.float64)


def draw(rows: int, seed: int, width: int = D) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of(count: int, concepts: int = 2, seed: int = 0) -> Rows:
    """Concepts of `count` rows each."""
    return Rows.stack([(draw(count, seed + 2 * k), draw(count, seed + 2 * k + 1)) for k in range(concepts)])


def retention(hard: int = 0, ridge: float = 0.1, seed: int = 9) -> Retention:
    r = draw(30, seed) * torch.linspace(2, 0.1, D, dtype=torch.float64)
    basis = torch.linalg.qr(draw(D, seed + 1)[:, :hard])[0] if hard else torch.zeros(D, 0, dtype=torch.float64)
    return Retention(gram=r.T @ r / 30, ridge=ridge, hard=basis)


def dense(map_) -> Tensor:
    return EYE + map_.u @ map_.v.T


def formula(rows: Rows, keep: Retention, e: float, p: float) -> Tensor:
    """(★) as it is written."""
    n = EYE - keep.hard @ keep.hard.T
    inner = keep.ridge * EYE + e * n @ rows.c.T @ rows.c @ n + p * n @ keep.gram @ n
    return EYE + e * (rows.t - rows.c).T @ rows.c @ n @ torch.linalg.inv(inner) @ n


@pytest.mark.parametrize("hard", [0, 1, 4])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize(("e", "p"), [(1.0, 1.0), (0.5, 0.0), (2.0, 30.0)])
def test_primal_and_dual_are_the_formula(hard, count, e, p):
    rows, keep = rows_of(count), retention(hard)
    expected = formula(rows, keep, e, p)
    found = (
        solve_primal(rows, keep, erase=e, weight=p),
        solve_dual(rows, keep.spread(p, rows.c), e),
        joint_map(rows, keep, erase=e, weight=p),
    )
    for map_ in found:
        torch.testing.assert_close(dense(map_), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.3, 5.0])
def test_uce_is_the_case_without_rows_that_stay_exactly(p):
    rows, keep = rows_of(3), retention()
    map_ = RowPairs.gather([(rows.c, rows.t)]).edit(keep.gram, erase=0.7, preserve=p, ridge=keep.ridge)
    torch.testing.assert_close(dense(map_), formula(rows, keep, 0.7, p), rtol=1e-9, atol=1e-9)
    w, r = draw(5, 3), torch.linalg.cholesky(keep.gram).T
    torch.testing.assert_close(
        w @ dense(map_), naive.uce(w, rows.c, rows.t, r, 0.7, p, keep.ridge), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("count", [2, 9])
def test_what_must_stay_exactly_does(count):
    rows, keep = rows_of(count), retention(4)
    map_ = joint_map(rows, keep, erase=1.0, weight=0.5)
    torch.testing.assert_close(map_.apply(keep.hard), keep.hard, rtol=0, atol=1e-12)


def test_limits_of_the_weights():
    rows = rows_of(2)
    r = draw(3, 7)
    keep = Retention(gram=r.T @ r, ridge=1e-6, hard=torch.zeros(D, 0, dtype=torch.float64))
    heavy = joint_map(rows, keep, erase=1.0, weight=1e6)
    torch.testing.assert_close(heavy.apply(r.T), r.T, rtol=0, atol=1e-4)  # p → ∞ fixes the span of G
    free = free_space(r.T @ r, 1.0)
    span = torch.linalg.qr(r.T)[0]
    outside = Retention(gram=0 * EYE, ridge=1e-9, hard=span)
    map_ = joint_map(rows, outside, erase=1.0, weight=0.0)
    exact = exact_outside(RowPairs.gather([(rows.c, rows.t)]), free.projector, 1e-9)
    torch.testing.assert_close(dense(map_), dense(exact), rtol=0, atol=1e-6)  # λ → 0 is the double projection


def test_alphaedit_with_a_cache_is_the_case_of_earlier_rows_in_the_gram():
    rows, earlier, r = rows_of(2), draw(4, 20), draw(3, 21)
    p = free_space(r.T @ r, 1.0).projector
    c = rows.c
    expected = EYE + (rows.t - c).T @ c @ p @ torch.linalg.inv(p @ (c.T @ c + earlier.T @ earlier) @ p + 0.1 * EYE) @ p
    keep = Retention(gram=earlier.T @ earlier, ridge=0.1, hard=torch.linalg.qr(r.T)[0])
    torch.testing.assert_close(dense(joint_map(rows, keep, erase=1.0, weight=1.0)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [2, 9], ids=["dual", "primal"])
def test_outcomes_are_what_the_map_does(count):
    rows, keep = rows_of(count, concepts=3), retention(2)
    keep = Retention(gram=keep.gram / keep.gram.trace() * rows.c.square().sum(), ridge=0.1, hard=keep.hard)
    w = draw(40, 5)
    s = w.T @ w
    found = Measure.of(rows, keep, s, 1.0).at(0.3)
    m = formula(rows, keep, 1.0, 0.3)
    first = [int((rows.owner == k).nonzero()[0]) for k in range(3)]
    for number, k in enumerate(first):
        rest = w @ (m @ rows.c[k] - rows.t[k])
        assert float(found.progress[number]) == pytest.approx(
            1 - float(rest.norm() / (w @ (rows.c[k] - rows.t[k])).norm()), abs=1e-9
        )
    moved = torch.trace((m - EYE).T @ s @ (m - EYE) @ keep.gram) / (w @ (rows.t - rows.c).T).square().sum()
    assert found.drift == pytest.approx(float(moved) ** 0.5, rel=1e-7)


def test_both_outcomes_fall_as_the_weight_grows():
    rows, keep = rows_of(2, concepts=3), retention()
    measure = Measure.of(rows, keep, EYE, 1.0)
    found = [measure.at(10**power) for power in (-3.0, -1.0, 0.0, 1.0, 3.0)]
    drifts = [outcome.drift for outcome in found]
    assert drifts == sorted(drifts, reverse=True)
    assert (found[0].progress > found[-1].progress).all()


@pytest.mark.parametrize("count", [2, 9], ids=["dual", "primal"])
def test_where_nothing_is_to_move_nothing_drifts(count):
    """Concept and target have the same keys and values: an encoder that pools all prompts to one vector, say."""
    rows, keep = rows_of(count, concepts=3), retention(2)
    found = Measure.of(rows._replace(t=rows.c), keep, EYE, 1.0).at(0.3)
    assert (found.drift, found.progress.tolist()) == (0.0, [1.0] * 3)


def found_for(blocks, retained):
    pairs = RowPairs.gather(blocks)
    small = [compress(*block) for block in blocks]
    return balance(small, pairs, retained, lambda: EYE, erase=1.0, ridge=0.1, weight=None), pairs


def test_repeating_concepts_or_retained_rows_changes_nothing():
    blocks = [(draw(3, k), draw(3, k + 50)) for k in range(2)]
    r = draw(8, 30)
    maps = []
    for concepts, retained in ((blocks, r), (blocks * 3, r), (blocks, torch.cat([r, r]))):
        weights, pairs = found_for(concepts, retained.T @ retained)
        edit = pairs.edit(retained.T @ retained, erase=1.0, preserve=weights.preserve, ridge=weights.ridge)
        maps.append(dense(edit))
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(maps[2], maps[0], rtol=1e-8, atol=1e-9)


def test_the_order_of_concepts_does_not_matter():
    blocks = [(draw(2, k), draw(2, k + 50)) for k in range(3)]
    keep = retention(1)
    one, other = (joint_map(Rows.stack(b), keep, erase=1 / 3, weight=0.4) for b in (blocks, blocks[::-1]))
    torch.testing.assert_close(dense(one), dense(other), rtol=1e-9, atol=1e-11)


def test_the_weight_is_the_largest_with_which_the_concepts_go_while_the_others_stay():
    r = draw(200, 3) * torch.linspace(1, 0.02, D, dtype=torch.float64)
    rows = Rows.stack([(draw(1, 1), draw(1, 2))])
    gram = r.T @ r / r.square().sum() * rows.c.square().sum()
    keep = Retention(gram=gram, ridge=1e-3, hard=torch.zeros(D, 0, dtype=torch.float64))
    found = weight_for(rows, keep, EYE, erase=1.0)
    measure = Measure.of(rows, keep, EYE, 1.0)
    assert found.progress >= 0.9
    assert float(measure.at(1.3 * found.weight).progress) < 0.9
    # Where going would cost the others too much, they are kept and progress falls short.
    tight = find_weight(measure.at, drift=0.6 * found.drift)
    assert tight.drift <= 0.6 * found.drift
    assert tight.progress < 0.9 < found.progress
    assert measure.at(tight.weight / 1.3).drift > 0.6 * found.drift


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 40))
def test_blocks_keep_the_products_up_to_their_cut(seed, count):
    c = draw(count, seed)[:, :3] @ draw(3, seed + 1)  # of rank 3
    t = draw(count, seed + 2)
    block = compress(c, t, energy=1.0)
    assert len(block.c) <= min(8, count)
    torch.testing.assert_close(block.c.T @ block.c, c.T @ c, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(block.t.T @ block.c, t.T @ c, rtol=1e-8, atol=1e-8)


def test_blocks_of_many_rows_hold_what_a_full_decomposition_holds():
    c = draw(300, 0, width=90) * torch.linspace(1, 0.01, 90, dtype=torch.float64) ** 3
    block = compress(c, c)
    values = torch.linalg.svdvals(c)[: len(block.c)]
    assert float(block.c.square().sum()) == pytest.approx(float(values.square().sum()), rel=1e-3)
