"""Rules of guards on numbers: closed forms, thresholds and windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface.erasures.guards.crg import CRG
from efface.erasures.guards.door import Words, positions_of, projector
from efface.erasures.guards.negative import NegativePrompt
from efface.erasures.guards.output import Outputs
from efface.erasures.guards.safree import Safree, beta, triggers
from efface.erasures.guards.seot import weakening
from efface.erasures.guards.sld import SLD
from efface.erasures.guards.stream import Stream
from efface.models.model import Model

PROMPT = "a church in noto style"


def outputs(u, p, s, *, unit=1.0, share=0.5, weight=5.0):
    return Outputs(
        unconditional=u,
        conditional=p,
        concept=s,
        unit=torch.full((len(u), *[1] * (u.ndim - 1)), unit),
        share=share,
        weight=weight,
    )


def three(seed=0, rows=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 4, 3, 3, generator=g, dtype=torch.float64) for _ in range(3)]


def sld(**options):
    full = {"warmup": 0.0, "strength": 1e30, "threshold": 1e30, "momentum_scale": 0.0, "momentum": 0.0}
    return SLD(phrases=("x",), **full | options)


def test_sld_with_a_full_mask_is_guidance_from_the_concept_to_the_prompt():
    u, p, s = three()
    gamma = sld().change(outputs(u, p, s), {})
    torch.testing.assert_close(u + 5 * (p - gamma - u), u + 5 * (p - s))


def test_sld_leaves_the_concepts_own_prompt_and_anything_at_no_strength():
    u, p, s = three()
    assert not sld(momentum_scale=0.5, momentum=0.7).change(outputs(u, p, p), {}).any()
    assert not sld(strength=0.0).change(outputs(u, p, s), {}).any()


def test_slds_momentum_converges_and_counts_while_warming_up():
    u, p, s = three()
    rule, memory = sld(momentum_scale=0.5, momentum=0.7, warmup=0.4), {}
    assert rule.change(outputs(u, p, s, share=0.1), memory) is None
    assert memory["momentum"].any()
    for _ in range(200):
        gamma = rule.change(outputs(u, p, s), memory)
    torch.testing.assert_close(gamma, (s - u) / (1 - 0.5))


def test_slds_condition_is_one_sided_and_may_be_a_quantile():
    u, p, s = three()
    gamma = sld(threshold=0.1).change(outputs(u, p, s), {})
    assert torch.equal(gamma != 0, p - s < 0.1)
    half = sld(threshold=0.5, quantile=True).change(outputs(u, p, s), {})
    limit = (p - s).abs().flatten(1).float().quantile(0.5, dim=1).view(-1, 1, 1, 1)
    assert torch.equal(half != 0, p - s < limit)


@given(st.floats(0.05, 1.0), st.sampled_from(["sld", "crg"]))
def test_rules_know_units_of_noise(c, which):
    """Outputs in other units, o = ε / c, give the same γ in ε, at every step of a picture."""
    rule = (
        sld(strength=0.7, threshold=0.2, momentum_scale=0.4, momentum=0.6)
        if which == "sld"
        else CRG(("x",), 1.0, 2.0, 0.0)
    )
    first, second = {}, {}
    for number in range(3):
        u, p, s = three(number)
        own = rule.change(outputs(u, p, s, share=number / 3), first)
        other = rule.change(outputs(u / c, p / c, s / c, unit=c, share=number / 3), second)
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(other * c, own, rtol=1e-4, atol=1e-6)


def test_the_negative_prompt_takes_the_place_of_the_unconditional_output():
    u, p, n = three()
    gamma = NegativePrompt(("x",)).change(outputs(u, p, n), {})
    torch.testing.assert_close(u + 5 * (p - gamma - u), n + 5 * (p - n))


def test_crg_gives_the_concepts_own_picture_back_to_the_unconditional_one_and_leaves_others():
    u, p, s = three()
    both = torch.stack([s[0], u[1]])  # the first is the concept itself, the second nothing
    gamma = CRG(("x",), 1.0, 2.0, 0.0).change(outputs(u, both, s), {})
    torch.testing.assert_close((both - gamma)[0], u[0])
    assert torch.equal((both - gamma)[1], both[1])
    assert CRG(("x",), 1.0, 2.0, 1e9).change(outputs(u, p, s), {}) is None


def test_crg_sums_evidence_over_the_schedule_not_over_calls():
    u, p, s = three()
    rule, coarse, fine = CRG(("x",), 1.0, 2.0, 1e9), {}, {}
    for share in (0.0, 0.5, 1.0):
        rule.change(outputs(u, p, s, share=share), coarse)
    for number in range(11):
        rule.change(outputs(u, p, s, share=number / 10), fine)
    torch.testing.assert_close(coarse["past"], fine["past"])


def test_projectors():
    columns = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = projector(columns)
    torch.testing.assert_close(found @ found, found)
    torch.testing.assert_close(projector(torch.cat([columns, columns[:, :1]], 1)), found)
    torch.testing.assert_close(found @ columns, columns)


def safree(**options):
    return Safree(**{"phrases": ("church",), "alpha": 0.01, "slope": 50.0, "middle": 0.0, "window": 1.0} | options)


@pytest.fixture(scope="module")
def words(sd):
    return Words(Model(sd)), Stream(Model(sd).token_spans()[0], 0)


def test_safrees_triggers_become_orthogonal_to_the_concept(sd, words):
    reading, stream = words
    ids = stream.span.ids(PROMPT)
    edit = safree().edit(reading, stream, ids)
    assert len(edit.positions)
    (row,) = reading.without(stream, ids, [ids])
    new = edit.apply(row.double(), 1.0)
    concept = reading.phrases(stream, ("church",))
    inside = projector(concept.T)
    moved = edit.positions
    assert float((new[moved].double() @ inside).abs().max()) < 1e-4 * float(row[moved].abs().max())
    assert torch.equal(edit.apply(row, 0.0)[moved], row[moved])
    stays = [i for i in range(len(row)) if i not in moved.tolist()]
    assert torch.equal(new[stays], row.double()[stays])


def test_what_lies_in_the_prompt_and_outside_the_concept_is_a_fixed_point():
    g = torch.Generator().manual_seed(1)
    concept, inputs = (torch.randn(8, 2, generator=g, dtype=torch.float64) for _ in range(2))
    outside = inputs - projector(concept) @ inputs
    matrix = (torch.eye(8, dtype=torch.float64) - projector(concept)) @ projector(outside)
    torch.testing.assert_close(matrix @ outside, outside)
    assert abs(beta(outside.T, matrix)) < 1e-12


def test_triggers_are_relative_and_a_lone_token_is_one():
    residuals = torch.diag(torch.tensor([1.0, 1.0, 3.0]))
    assert triggers(residuals, 0.01) == [2]
    assert triggers(residuals[:1], 0.01) == [0]


@pytest.mark.parametrize(("change", "last"), [(0.0, 0), (0.55, 5), (1.0, 10)])
def test_safrees_window_is_a_share_of_the_schedule(change, last):
    assert safree(slope=3.5, middle=5.5, window=0.2).share_of(change) == pytest.approx(last / 50)
    assert safree(slope=3.5, middle=5.5, window=0.2, as_published=True).share_of(change) == pytest.approx(
        (last + 1) / 50
    )


@given(st.floats(-1, 3), st.integers(2, 5))
def test_seots_weakening_multiplies_singular_values(alpha, rows):
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(
        weakening(x, alpha, 2.0) @ x, (u * (s * torch.exp(-alpha * s / 2))) @ v, rtol=1e-6, atol=1e-8
    )


def test_spans_of_names():
    assert positions_of([5, 1, 2, 5, 1], [[1, 2], [9]]) == [1, 2]
    assert positions_of([1, 2], [[]]) == []
