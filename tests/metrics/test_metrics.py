"""Metrics against independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.errors import EffaceError, UsageError
from efface.metrics.fid import Moments, coverage, fid, frechet, kid
from efface.metrics.rates import Judged, bonett_price, mcnemar, paired, rate, scores, wilson


def cloud(count, width=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + shift


def test_fid_equals_the_textbook_formula():
    x, y = cloud(300), cloud(200, seed=1, shift=0.5)
    a, b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    cross = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + np.trace(a) + np.trace(b) - 2 * cross
    assert fid(x, y) == pytest.approx(expected, rel=1e-9)


def test_fid_of_a_set_with_itself_is_zero_also_when_there_are_fewer_pictures_than_features():
    x = cloud(4, width=20)
    assert abs(fid(x, x)) < 1e-6


def test_moments_do_not_depend_on_the_batches():
    x, whole = cloud(50), Moments(6)
    for part in x.split(7):
        whole.add(part)
    assert frechet(whole.mean, whole.covariance, x.mean(0), torch.cov(x.T)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(EffaceError, match="at least 2"):
        _ = Moments(3).covariance


def test_kid_equals_a_double_loop():
    x, y = cloud(12), cloud(9, seed=1)

    def k(a, b):
        return float((a @ b / 6 + 1) ** 3)

    n = 9
    value, _ = kid(x[:n], y, subsets=1)
    xs, ys = x[:n], y
    within = sum(k(xs[i], xs[j]) + k(ys[i], ys[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    between = sum(k(a, b) for a in xs for b in ys) / (n * n)
    assert value == pytest.approx(within - 2 * between, rel=1e-9)


def test_coverage_equals_a_double_loop():
    x, y, k = cloud(20), cloud(15, seed=2), 3

    def radius(points, i):
        return sorted(float((points[i] - p).norm()) for p in points)[k]

    inside = [[float((a - b).norm()) < radius(x, i) for b in y] for i, a in enumerate(x)]
    found = coverage(x, y, k=k)
    assert found.precision == pytest.approx(np.any(inside, axis=0).mean())
    assert found.density == pytest.approx(np.sum(inside) / (k * len(y)))
    assert found.coverage == pytest.approx(np.any(inside, axis=1).mean())
    back = [any(float((a - b).norm()) < radius(y, j) for j, b in enumerate(y)) for a in x]
    assert found.recall == pytest.approx(np.mean(back))
    assert coverage(x, x + 1000, k=k) == (0, 0, 0, 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_rate_lies_in_its_interval(hits):
    found = rate(hits, resamples=200)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert 0 <= found.low <= found.high <= 1


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        # Ten prompts of ten pictures that agree within a prompt: only resampling whole prompts is honest.
        truth = random.random(10) < 0.5
        found = rate(list(np.repeat(truth, 10)), list(np.repeat(np.arange(10), 10)), resamples=300)
        covered += found.low <= 0.5 <= found.high
    assert covered > 170


@pytest.mark.parametrize(("hits", "count"), [(0, 9), (9, 9), (8, 9), (50, 171), (171, 171)])
def test_wilsons_interval_holds_every_share_that_a_score_test_would_not_reject(hits, count):
    low, high = wilson(hits / count, count)
    accepted = [
        p
        for p in np.linspace(0, 1, 20001)
        if abs(hits / count - p) <= 1.959964 * math.sqrt(p * (1 - p) / count) + 1e-12
    ]
    assert low == pytest.approx(min(accepted), abs=2e-4)
    assert high == pytest.approx(max(accepted), abs=2e-4)


def test_nothing_seen_is_not_nothing_possible():
    """Nine of nine: a bootstrap alone would say 100% to 100%."""
    found = rate([True] * 18, [i // 2 for i in range(18)])
    assert (found.value, found.high, found.pictures) == (1.0, 1.0, 18)
    assert found.low == pytest.approx(9 / (9 + 1.959964**2))  # Wilson's for nine prompts
    same = paired([True] * 50, [True] * 50)
    assert same.difference == 0
    assert same.low == -same.high < -0.02
    assert math.isnan(rate([]).value)
    assert math.isnan(paired([], []).difference)
    assert rate([False] * 9).low == 0.0


def test_intervals_of_few_pictures_cover_the_truth():
    """Shares and differences near their ends, where a bootstrap of nine prompts covers half of the time."""
    random, shares, differences = np.random.default_rng(2), 0, 0
    for _ in range(300):
        found = rate(list(random.random(9) < 0.95), resamples=200)
        shares += found.low <= 0.95 <= found.high
        before = random.random(60) < 0.97
        after = before & (random.random(60) < 0.98)
        change = paired(list(after), list(before), resamples=200)
        differences += change.low <= 0.97 * 0.02 <= change.high
    assert shares >= 280
    assert differences >= 280


def test_the_paired_interval_is_wider_than_a_normal_one():
    low, high = bonett_price(3, 8, 40)
    first, second = 4 / 42, 9 / 42
    middle, spread = second - first, 1.959964 * math.sqrt((first + second - (second - first) ** 2) / 42)
    assert (low, high) == pytest.approx((middle - spread, middle + spread))


def test_mcnemar_is_the_binomial_sum():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(8, 1) == mcnemar(1, 8)


def test_paired_differences():
    a, b = [True] * 30 + [False] * 10, [True] * 10 + [False] * 30
    found = paired(a, b)
    assert found.difference == pytest.approx(-0.5)
    assert found.low < -0.3 > found.high - 0.2 or found.high < 0
    assert found.p == pytest.approx(2 / 2**20)
    with pytest.raises(UsageError, match="same prompts"):
        paired(a, b[:-1])


def test_ua_ira_and_cra():
    pictures = [
        Judged(prompt=0, concept="church", other="noto", shown=False, shown_other=True),
        Judged(prompt=0, concept="church", other="noto", shown=True, shown_other=False),
        Judged(prompt=1, concept="cat", other="noto", shown=True, shown_other=True),
        Judged(prompt=2, concept="dog", other="blob", shown=False, shown_other=True),
    ]
    found = scores(pictures, ["church"])
    assert (found.ua.value, found.ira.value, found.cra.value) == (0.5, 0.5, 0.75)
    assert scores(pictures, ["church"], cross="retained").cra.value == 1.0
    assert math.isnan(scores(pictures, ["tree"]).ua.value)
