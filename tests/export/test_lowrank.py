"""Low-rank products against dense matrices: the error of every rank as stored, over spectra of every kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface.export.lowrank import basis_of, product

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 12))
"""Rows, columns and rank of an edit."""


def edit(shape, decay, size, seed):
    """Factors (out n) and (in n) whose product has singular values that fall by 10^-decay, the largest near `size`."""
    out, wide, rank = shape
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(side, rank, generator=g, dtype=torch.float64) for side in (out, wide))
    return size * left * torch.logspace(0, -decay, rank, dtype=torch.float64), right


def dense(up, down):
    return up.double() @ down.double()


@given(SHAPES, st.floats(0, 6), st.floats(-6, 6), st.sampled_from([torch.float16, torch.float32]), st.integers(0, 99))
def test_the_error_of_every_rank_is_that_of_the_stored_factors(shape, decay, power, dtype, seed):
    left, right = edit(shape, decay, 10.0**power, seed)
    change = left @ right.T
    found = product(left, basis_of(right), dtype)
    assert found.up.dtype == found.down.dtype == dtype
    for rank in range(found.up.shape[1] + 1):
        error = (dense(found.up[:, :rank], found.down[:rank]) - change).norm() / change.norm()
        # Squares of what is nearly equal are subtracted: float64 leaves 1e-16 of them, the root 1e-8.
        assert float(found.errors[rank]) == pytest.approx(float(error), abs=1e-7)


@given(SHAPES, st.floats(0, 6), st.sampled_from([1e-1, 1e-2, 1e-3]), st.integers(0, 99))
def test_the_least_rank_in_float16_is_that_of_the_singular_values(shape, decay, error, seed):
    left, right = edit(shape, decay, 1.0, seed)
    change = left @ right.T
    found = product(left, basis_of(right), torch.float16, error=error)
    rank = found.rank_for(error)
    assert rank is not None
    values = torch.linalg.svdvals(change)
    up, down = found.cut(rank)
    assert (dense(up, down) - change).norm() <= (error + 1e-7) * change.norm()
    # Half of an ulp of float16 is 2^-11 of a value, in each of two factors: what remains of the error is for the cut.
    for_the_cut = error - 2 * 2.0**-11 - 1e-6
    enough = next(k for k in range(len(values) + 1) if values[k:].norm() <= for_the_cut * values.norm())
    assert rank <= enough
    assert values[rank:].norm() <= (error + 1e-7) * values.norm()


def test_a_rank_of_ones_own():
    left, right = edit((12, 9, 6), 2.0, 1.0, 0)
    for rank in (1, 4, 6, 8):
        found = product(left, basis_of(right), torch.float16, rank=rank)
        up, down = found.cut(rank)
        assert up.shape == (12, rank)
        assert down.shape == (rank, 9)
        assert found.up.shape[1] == min(rank, 6)


def test_what_float16_cannot_hold():
    left, right = edit((12, 9, 6), 1.0, 1.0, 0)
    found = product(left, basis_of(right), torch.float16, error=1e-5)
    assert found.rank_for(1e-5) is None
    assert product(left, basis_of(right), torch.float32, error=1e-5).rank_for(1e-5) == 6
    huge = product(1e12 * left, basis_of(right), torch.float16)
    assert huge.rank_for(1e-2) is None


def test_nothing_is_of_rank_0():
    found = product(torch.zeros(4, 2), basis_of(torch.ones(3, 2)), torch.float16)
    assert found.rank_for(1e-3) == 0
    assert found.up.shape == (4, 0)
