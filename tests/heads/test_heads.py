"""Sparse heads: against naive logistic regressions, on planted dictionaries, and that what is told adds up."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.errors import UsageError
from efface.heads.config import HeadConfig
from efface.heads.fit import Accuracy, fit_head, held_out, measure_accuracy
from efface.heads.head import SparseHead, gate
from efface.heads.names import UNNAMED, Kind, Name, by_chance, names_of
from efface.heads.solve import solve

CONCEPTS = ("cat", "dog", "church", "bear")


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(rows=240, latents=60, each=1, seed=0):
    """Activations of which the first `each` of every concept are active where it is shown, and all others at random."""
    label = torch.arange(rows) % len(CONCEPTS)
    active = (uniform(rows, latents, seed=seed) < 0.15) * uniform(rows, latents, seed=seed + 1)
    for concept in range(len(CONCEPTS)):
        mine = slice(concept * each, (concept + 1) * each)
        active[:, mine] = (label == concept)[:, None] * (0.5 + uniform(rows, each, seed=seed + 2 + concept))
    return active, torch.nn.functional.one_hot(label, len(CONCEPTS)).bool()


def many(rows=200, seed=9):
    """Labels of which a row has any number but none."""
    labels = uniform(rows, len(CONCEPTS), seed=seed) < 0.4
    labels[torch.arange(rows), torch.arange(rows) % len(CONCEPTS)] = True
    return labels


def naive_regression(x, labels, exclusive):
    """Logits of the logistic regression by Newton's method in torch's own losses."""
    parameters = torch.zeros(labels.shape[1], x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)

    def loss(p):
        logits = ones @ p.view(labels.shape[1], -1).T
        if exclusive:
            return torch.nn.functional.cross_entropy(logits, labels.double(), reduction="mean")
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum") / len(x)

    p = parameters.detach().flatten()
    for _ in range(40):
        gradient = torch.func.grad(loss)(p)
        p = p - torch.linalg.pinv(torch.func.hessian(loss)(p), hermitian=True) @ gradient
    return ones @ p.view(labels.shape[1], -1).T


@pytest.mark.parametrize("k", [None, 5, 50], ids=["no k", "k = n", "k above n"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_all_activations_without_a_penalty_are_a_logistic_regression(exclusive, k):
    x = uniform(200, 5, seed=1)
    labels = torch.nn.functional.one_hot((uniform(200, seed=2) * 4).long(), 4).bool() if exclusive else many()
    head = fit_head(x, labels, CONCEPTS, HeadConfig(k=k, penalty=0.0))
    assert head.exclusive is exclusive
    assert head.k is None
    ours, theirs = head.logits(x), naive_regression(x, labels, exclusive)
    if exclusive:  # a constant added to all logits of a row changes nothing
        ours, theirs = ours.log_softmax(1), theirs.log_softmax(1)
    # The gradient ends below 1e-6 and the curvature of the flattest direction is above 1e-2.
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("mix", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("working", [512, 3], ids=["all at once", "three at a time"])
def test_the_solution_of_the_elastic_net_is_the_optimum(exclusive, mix, working, monkeypatch):
    """Where a weight is 0 the loss's slope is held by the penalty, elsewhere it equals it (Karush, Kuhn and Tucker)."""
    monkeypatch.setattr("efface.heads.solve.WORKING", working)
    x, labels = planted(rows=80, latents=20)
    labels = labels if exclusive else many(80)
    found = solve(x, labels.double(), exclusive=exclusive, penalty=0.02, mix=mix)
    weight = found.weight.clone().requires_grad_()
    logits = x @ weight.T + found.bias
    if exclusive:
        loss = torch.nn.functional.cross_entropy(logits, labels.double())
    else:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum") / len(x)
    (loss + 0.02 * (1 - mix) / 2 * weight.square().sum()).backward()
    zero = found.weight == 0
    assert (weight.grad[zero].abs() <= 0.02 * mix + 2e-6).all()
    torch.testing.assert_close(weight.grad[~zero], -0.02 * mix * found.weight[~zero].sign(), atol=2e-6, rtol=0)
    assert zero.any() == (mix > 0)


@pytest.mark.parametrize("k", [None, 8, 3, 1])
def test_a_planted_support_is_recovered(k):
    activity, labels = planted()
    head = fit_head(activity, labels, CONCEPTS, HeadConfig(k=k))
    for number, concept in enumerate(CONCEPTS):
        assert head.choose(concept, 0.9) == [number]
    out = planted(seed=50)
    assert measure_accuracy(head, *out).share == 1.0
    assert k is None or 0 < measure_accuracy(head, *out).active <= k


def test_redundant_latents_are_found_where_the_published_score_ranks_them_alike():
    """Two latents that share a concept's pictures between them: neither alone tells it."""
    activity, labels = planted(each=2, latents=40)
    own = labels.nonzero()[:, 1]
    turn = torch.arange(len(own)) // len(CONCEPTS) % 2
    for concept in range(len(CONCEPTS)):
        for half in range(2):
            activity[(own == concept) & (turn != half), 2 * concept + half] = 0
    head = fit_head(activity, labels, CONCEPTS, HeadConfig(k=4))
    for number, concept in enumerate(CONCEPTS):
        assert sorted(head.choose(concept, 0.9)) == [2 * number, 2 * number + 1]


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("k", [None, 4])
def test_contributions_and_the_bias_are_the_logit(exclusive, k):
    activity, labels = planted(latents=30)
    head = fit_head(activity, labels if exclusive else many(240), CONCEPTS, HeadConfig(k=k, penalty=1e-4))
    logits = head.logits(activity)
    for concept in range(len(CONCEPTS)):
        parts = head.contributions(activity, concept)
        torch.testing.assert_close(parts.sum(1) + head.bias[concept], logits[:, concept], atol=1e-6, rtol=0)
        assert k is None or int((parts != 0).sum(1).max()) <= k
    total = head.probabilities(activity).sum(1)
    assert not exclusive or torch.allclose(total, torch.ones_like(total))


def naive_gate(row, offset, rank, k):
    gated = [max(s - o, 0.0) for s, o in zip(row, offset, strict=True)]
    order = sorted(range(len(row)), key=lambda j: -gated[j] * rank[j])[:k]
    return [value if j in order else 0.0 for j, value in enumerate(gated)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 12))
def test_the_gate_equals_the_naive_one(seed, units, k):
    standardised = uniform(7, units, seed=seed) * 4 - 1
    offset, rank = uniform(units, seed=seed + 1), uniform(units, seed=seed + 2) + 0.1
    expected = [naive_gate(row, offset.tolist(), rank.tolist(), k) for row in standardised.tolist()]
    torch.testing.assert_close(gate(standardised, offset, rank, k), torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.floats(0.05, 1.0))
def test_no_fewer_latents_hold_the_margin(seed, units, margin):
    ones = torch.ones(units, dtype=torch.float64)
    head = SparseHead(
        concepts=("a", "b"), exclusive=True, k=None, units=torch.arange(units) * 3, mean=0 * ones, scale=ones, offset=0 * ones,
        rank=ones, weight=uniform(2, units, seed=seed) * 2 - 1, bias=torch.zeros(2).double(),
        means=uniform(2, units, seed=seed + 1),
    )  # fmt: skip
    scores = dict(zip((3 * j for j in range(units)), head.scores("a").tolist(), strict=True))
    total = sum(scores.values())
    if total <= 0:
        with pytest.raises(UsageError, match="no activation speaks for 'a'"):
            head.choose("a", margin)
        return
    chosen = head.choose("a", margin)
    assert sum(scores[j] for j in chosen) >= margin * total - 1e-9
    fewer = combinations(scores, len(chosen) - 1)
    assert all(sum(scores[j] for j in some) < margin * total for some in fewer)
    assert all(scores[j] >= 0 for j in chosen)


def test_fitting_is_the_same_every_time():
    activity, labels = planted(latents=30)
    first, second = (fit_head(activity, labels, CONCEPTS, HeadConfig(k=4)) for _ in range(2))
    assert all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("units", "offset", "weight", "bias")
    )


def test_k_is_never_passed_over():
    """UCBM's own code ignores it beside `--relu`, which is on by default."""
    activity, labels = planted(each=3, latents=40)
    narrow, wide = (fit_head(activity, labels, CONCEPTS, HeadConfig(k=k)) for k in (1, 6))
    assert int((narrow.gated(activity) > 0).sum(1).max()) == 1
    assert int((wide.gated(activity) > 0).sum(1).max()) > 1


def test_latents_that_say_nothing_do_not_take_the_places():
    """Latents that are always strong would be the k largest of every row."""
    activity, labels = planted(latents=20)
    loud = 50 + uniform(len(activity), 30, seed=3) * 40
    head = fit_head(torch.cat([activity, loud], 1), labels, CONCEPTS, HeadConfig(k=2))
    assert [head.choose(concept, 0.9) for concept in CONCEPTS] == [[0], [1], [2], [3]]


def test_rows_that_show_nothing_of_the_kind_do_not_count():
    activity, labels = planted()
    noise = (uniform(100, activity.shape[1], seed=8), torch.zeros(100, len(CONCEPTS), dtype=torch.bool))
    plain = fit_head(activity, labels, CONCEPTS, HeadConfig())
    both = fit_head(torch.cat([activity, noise[0]]), torch.cat([labels, noise[1]]), CONCEPTS, HeadConfig())
    assert torch.equal(plain.weight, both.weight)
    assert measure_accuracy(plain, *noise) == Accuracy(0, 0, 0)


def test_constant_activations_are_not_read():
    activity, labels = planted()
    activity[:, 50] = 0.1  # whose deviation is not 0 in floating point
    activity[:, 51] = 0
    head = fit_head(activity, labels, CONCEPTS, HeadConfig(k=None, penalty=0.0))
    assert {50, 51}.isdisjoint(head.units.tolist())
    assert all(torch.isfinite(getattr(head, name)).all() for name in ("weight", "bias", "scale"))


def test_too_few_concepts_or_pictures_are_refused():
    activity, labels = planted()
    with pytest.raises(UsageError, match="'cat' is the only concept of its kind"):
        fit_head(activity, labels[:, :1], CONCEPTS[:1], HeadConfig())
    labels[:, 2] = False
    with pytest.raises(UsageError, match="no picture of 'church'"):
        fit_head(activity, labels, CONCEPTS, HeadConfig())
    with pytest.raises(UsageError, match="does not know 'bee'"):
        fit_head(*planted(), CONCEPTS, HeadConfig()).choose("bee", 0.9)
    for bad in ({"k": 0}, {"penalty": -1.0}, {"penalty": math.inf}, {"mix": 2.0}, {"iterations": -1}):
        with pytest.raises(UsageError, match=f"{next(iter(bad))} is"):
            HeadConfig(**bad)


def test_every_fifth_of_the_rows_that_show_the_same_is_held_out():
    labels = torch.tensor([[1, 0]] * 11 + [[0, 1]] * 4 + [[1, 1]] * 5).bool()
    assert held_out(labels).nonzero().squeeze(1).tolist() == [4, 9, 19]


def test_what_is_right_by_chance_is_said():
    assert Accuracy(0, 0, 0).share is None
    assert not Accuracy(0, 0, 0).beats_chance
    assert Accuracy(20, 20, 10).beats_chance
    assert not Accuracy(12, 20, 10).beats_chance
    said = "60.0% of 20 held-out pictures right by 3.5 activations each, which may be chance"
    assert str(Accuracy(12, 20, 10, 3.5)) == said
    noise, labels = uniform(400, 30, seed=4), planted(rows=400)[1]
    out = held_out(labels)
    assert not measure_accuracy(
        fit_head(noise[~out], labels[~out], CONCEPTS, HeadConfig()), noise[out], labels[out]
    ).beats_chance


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1))
def test_chance_is_the_binomial_tail(hits, more, share):
    count = hits + more
    expected = sum(math.comb(count, i) * share**i * (1 - share) ** (count - i) for i in range(hits, count + 1))
    assert by_chance(hits, count, share) == pytest.approx(expected, abs=1e-9)


class TestNames:
    """Names with a purity, and `unnamed`."""

    def test_planted_latents_have_their_concepts_name(self):
        activity, labels = planted(each=2)
        names = names_of(activity, [Kind(labels, fit_head(activity, labels, CONCEPTS, HeadConfig()))])
        for number, concept in enumerate(CONCEPTS):
            assert names[2 * number] == names[2 * number + 1] == Name(concept, 1.0, True)
        assert {name.label for name in names[8:]} == {UNNAMED}
        assert str(names[0]) == "cat 1.00"
        assert str(Name("cat", 0.4, False)) == "unnamed (cat 0.40)"

    def test_purity_is_the_share_of_the_strongest_rows(self):
        """A latent that 15 of its 20 strongest rows share is named, one of 11 is not."""
        activity, labels = planted()
        own = labels[:, 0].nonzero().squeeze(1)
        other = labels[:, 1].nonzero().squeeze(1)
        for latent, share in ((50, 15), (51, 11)):
            activity[:, latent] = 0
            activity[own[:share], latent] = 1 + uniform(share, seed=latent)
            activity[other[: 20 - share], latent] = 1 + uniform(20 - share, seed=latent + 1)
        names = names_of(activity, [Kind(labels, fit_head(activity, labels, CONCEPTS, HeadConfig()))])
        assert names[50] == Name("cat", 0.75, True)
        assert names[51].label == UNNAMED
        assert names[51].purity == pytest.approx(11 / 20)

    def test_two_rows_are_no_evidence(self):
        activity, labels = planted(rows=40)
        activity[:, 50] = 0
        activity[:2, 50] = 1.0  # a cat and a dog
        activity[:, 51] = 0
        activity[0, 51] = 1.0  # one cat: as pure as can be
        names = names_of(activity, [Kind(labels, fit_head(activity, labels, CONCEPTS, HeadConfig()))])
        assert names[51] == Name("cat", 1.0, False)
        assert names[50].label == UNNAMED

    def test_of_two_kinds_the_purer_names(self):
        activity, labels = planted()
        styles = torch.nn.functional.one_hot(torch.arange(240) // 4 % 2, 2).bool()
        activity[:, 50] = styles[:, 0] * (1 + uniform(240, seed=3))
        kinds = [
            Kind(labels, fit_head(activity, labels, CONCEPTS, HeadConfig())),
            Kind(styles, fit_head(activity, styles, ("noto", "blob"), HeadConfig())),
        ]
        names = names_of(activity, kinds)
        assert names[50] == Name("noto", 1.0, True)
        assert names[0] == Name("cat", 1.0, True)

    def test_a_latent_that_is_never_active_has_no_name(self):
        activity, labels = planted()
        activity[:, 50] = 0
        names = names_of(activity, [Kind(labels, fit_head(activity, labels, CONCEPTS, HeadConfig()))])
        assert (names[50].label, names[50].purity) == (UNNAMED, 0.0)
