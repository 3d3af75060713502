"""Dictionaries of features: codes against a naive solver, planted parts, and no picture that depends on another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.heads.dictionary import SPARSITY, both_signs, codes_of, factorise


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_features_of_both_signs_are_never_negative_and_keep_their_length():
    features = normal(5, 7)
    signed = both_signs(features)
    assert (signed >= 0).all()
    torch.testing.assert_close(signed.norm(dim=1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(signed[:, :7] - signed[:, 7:], torch.nn.functional.normalize(features, dim=1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_codes_are_the_least_of_their_objective(seed, parts):
    """Where a code is 0 its slope is not negative, elsewhere it is 0 (Karush, Kuhn and Tucker)."""
    dictionary = torch.nn.functional.normalize(normal(parts, 24, seed=seed).abs(), dim=1)
    features = normal(9, 12, seed=seed + 1)
    codes = codes_of(features, dictionary)
    slope = (codes @ dictionary - both_signs(features)) @ dictionary.T + SPARSITY
    assert (codes >= 0).all()
    # Coordinate descent converges linearly; rows of positive numbers lie at sharp angles to each other.
    assert (slope[codes == 0] >= -1e-3).all()
    assert (slope[codes > 0].abs() <= 1e-3).all()


def test_the_code_of_a_picture_depends_on_no_other():
    features, dictionary = normal(8, 10), factorise(normal(30, 10, seed=1), 6)
    alone = torch.cat([codes_of(row[None], dictionary) for row in features])
    torch.testing.assert_close(codes_of(features, dictionary), alone, atol=1e-12, rtol=0)


def test_planted_parts_are_found():
    parts = torch.zeros(4, 12, dtype=torch.float64)
    for part in range(4):
        parts[part, 3 * part : 3 * part + 3] = torch.tensor([1.0, 2.0, 1.5]) * (-1) ** part
    which = torch.randint(4, (80, 2), generator=torch.Generator().manual_seed(0))
    features = parts[which[:, 0]] + 0.6 * parts[which[:, 1]]
    found = factorise(features, 4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4, dtype=torch.float64))
    likeness = both_signs(parts) @ found.T
    assert sorted(likeness.argmax(1).tolist()) == [0, 1, 2, 3]
    assert (likeness.amax(1) > 0.98).all()


@pytest.mark.parametrize("rows", [1, 3])
def test_there_are_no_more_parts_than_rows(rows):
    assert factorise(normal(rows, 5), 128).shape == (rows, 10)
