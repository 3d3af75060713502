"""Statistics of a checkpoint's audit against counting, and on planted cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from efface.errors import UsageError
from efface.metrics.fooling import Pairs, fooling, look_the_same, lost, one_sided_mcnemar


def test_mcnemar_counts_coins():
    for losses, gains in itertools.product(range(6), range(6)):
        total = losses + gains
        naive = np.mean([sum(coins) >= losses for coins in itertools.product((0, 1), repeat=total)])
        assert one_sided_mcnemar(losses, gains) == pytest.approx(naive)


def test_what_looks_the_same():
    same, limit = look_the_same([0.1, 0.2, 0.9], np.linspace(0, 0.5, 101))
    assert limit == pytest.approx(0.475)
    assert same.tolist() == [True, True, False]
    with pytest.raises(UsageError, match="harmless"):
        look_the_same([0.1], [])


def planted(error: float, second_error: float = 0.0, far: bool = False, count: int = 100) -> Pairs:
    wrong, second = round(error * count), round(second_error * count)
    return Pairs(
        distances=[0.9 if far else 0.1] * count,
        base=[True] * count,
        candidate=[False] * wrong + [True] * (count - wrong),
        second_base=[True] * count,
        second_candidate=[False] * second + [True] * (count - second),
    )


NULL = [0.2] * 20


@pytest.mark.parametrize(
    ("pairs", "recovered", "verdict"),
    [
        (planted(0.5), [True] * 40 + [False] * 10, "fools"),
        (planted(0.5), [False] * 50, "suspect"),  # smoothing sees no concept either
        (planted(0.5), [], "suspect"),
        (planted(0.5, second_error=0.5), [True] * 50, "no sign"),  # the independent judge agrees
        (planted(0.5, far=True), [True] * 50, "no sign"),  # the pictures changed
        (planted(0.05), [True] * 5, "no sign"),  # too few
        (planted(0.0), [], "no sign"),
    ],
)
def test_planted_cases(pairs, recovered, verdict):
    found = fooling(pairs, NULL, recovered)
    assert found.flagged == found.to_json()["flagged"] == (verdict == "fools")
    assert found.suspect == found.to_json()["suspect"] == (verdict != "no sign")
    assert str(found).startswith(verdict)
    assert len(lost(pairs, look_the_same(pairs.distances, NULL)[0])) == found.lost
    if found.same:
        assert found.gap == pytest.approx(np.mean(pairs.second_candidate) - np.mean(pairs.candidate))
    else:
        assert math.isnan(found.error)
