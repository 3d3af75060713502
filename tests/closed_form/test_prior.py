"""The prior of a text encoder: what it holds, that it can be stopped, what it leaves out; and what an erasure retains."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny
from efface.closed_form import prior as module
from efface.closed_form.moment import Moment
from efface.closed_form.prior import build_prior, cached_prior, prior_path, prior_prompts
from efface.closed_form.retention import hard_basis, near_rows, prior_for, retained
from efface.closed_form.system import joint_map
from efface.concepts.concept import Concept
from efface.models.model import Model
from rounding import assert_rounded

CHURCH = Concept("church", anchor="cat")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("cache")
def test_it_is_the_mean_of_unit_rows(pipe):
    model = Model(pipe)
    prior = build_prior(model)
    assert prior.prompts == tuple(prior_prompts(model.token_spans()[0].words()))
    rows = []
    for prompt in prior.prompts:
        if not model.truncated(prompt):
            text = model.encode([prompt])
            rows.append(model.projection_inputs(text)[text.mask].double())
    content = torch.cat(rows)
    content = content / content.norm(dim=1, keepdim=True)
    held = prior.rows[prior.owner >= 0].double()
    assert len(held) == len(content)
    # Encoded without padding and in another order.
    torch.testing.assert_close(held.T @ held, content.T @ content, rtol=0, atol=0.05)
    gram = prior.gram([])
    torch.testing.assert_close(gram.trace(), torch.tensor(1.0, dtype=torch.float64), rtol=1e-3, atol=0)
    unit = prior.rows.double()
    torch.testing.assert_close(gram, unit.T @ unit / len(unit), rtol=0, atol=1e-3)


def test_states_without_padding_are_those_with_it(pipe):
    model = Model(pipe)
    ids = [model.token_spans()[0].ids(p) for p in ("a church", "garbage truck in noto style")]
    short, full = (model.encode_tokens(ids, padded=padded) for padded in (False, True))
    assert short.states.shape[1] < full.states.shape[1]
    assert_rounded(short.states[short.mask], full.states[full.mask])


@pytest.mark.usefixtures("cache")
def test_what_is_erased_is_left_out(sd):
    model, other = Model(sd), Concept("cathedral", aliases=("churches",))
    prior = build_prior(model)
    named = [i for i, prompt in enumerate(prior.prompts) if "church" in prompt.replace(",", " ").split()]
    assert named
    kept = ~torch.isin(prior.owner, torch.tensor(named))
    for concept in (CHURCH, other):
        assert len(prior.states([concept])) == int(kept.sum())
        rows = prior.rows[kept].double()
        torch.testing.assert_close(prior.gram([concept]), rows.T @ rows / len(rows), rtol=0, atol=1e-3)
    assert len(prior.states([])) == len(prior.rows)


def test_a_build_that_was_stopped_goes_on(sd, cache, monkeypatch):
    model = Model(sd)
    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(module, "SAVED", 2)
    read = []
    original = module._content

    def stopping(model, prompts, batch):
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(batch)
        return original(model, prompts, batch)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_content", stopping)
        with pytest.raises(KeyboardInterrupt):
            build_prior(model)
    assert cached_prior(model) is None
    again = []
    monkeypatch.setattr(module, "_content", lambda *args: again.append(args[2]) or original(*args))
    resumed = build_prior(model)
    assert again[0] == read[2]  # the third batch was not saved
    cache = prior_path(model)
    cache.unlink()
    whole = build_prior(model)
    assert torch.equal(whole.rows, resumed.rows)
    torch.testing.assert_close(whole.gram([]), resumed.gram([]))
    found = cached_prior(model)
    assert found is not None
    assert torch.equal(found.rows, whole.rows)
    assert found.prompts == whole.prompts


def test_it_follows_the_text_encoder_alone(cache):
    one, other = tiny.stable_diffusion(), tiny.stable_diffusion(seed=1)
    path = prior_path(Model(one))
    assert path.parent == cache
    other.text_encoder = one.text_encoder
    assert prior_path(Model(other)) == path
    assert prior_path(Model(tiny.stable_diffusion(seed=2))) != path


def test_a_damaged_file_is_made_again(sd, cache):
    model = Model(sd)
    build_prior(model)
    prior_path(model).write_bytes(b"damaged")
    assert cached_prior(model) is None
    assert len(build_prior(model).rows)


def test_few_concepts_never_build_it_and_many_say_so(sd, cache, capfd):
    model = Model(sd)
    assert prior_for(model, 5, "auto") is None
    assert prior_for(model, 9, "never") is None
    assert not list(cache.iterdir())
    built = prior_for(model, 6, "auto")
    assert built is not None
    used = prior_for(model, 1, "auto")
    assert used is not None
    assert torch.equal(built.rows, used.rows)


def test_a_low_rank_sum_is_near_the_whole_one():
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=g))[0]
    rows = torch.randn(900, 40, generator=g) * torch.linspace(1, 0, 40) ** 4 @ basis
    rows = rows / rows.norm(dim=1, keepdim=True)
    whole, low = Moment.empty(40), Moment.empty(40, widest=10)
    for part in rows.split(128):
        whole = whole.add(part)
        low = low.add(part)
    assert low.factor is not None
    assert low.factor.shape[1] <= 512
    expected = whole.without(rows[:5].double(), 900)
    found = low.without(rows[:5].double(), 900)
    torch.testing.assert_close(found, expected / expected.trace(), rtol=0, atol=1e-5)
    state = low.to_state()
    torch.testing.assert_close(
        Moment.restore(state).without(rows[:0].double(), 900), low.without(rows[:0].double(), 900)
    )


def test_a_low_rank_prior_changes_a_map_by_less_than_a_hundredth(monkeypatch):
    from efface.closed_form import moment
    from efface.closed_form.system import Retention, Rows

    monkeypatch.setattr(moment, "RANK", 24)
    g = torch.Generator().manual_seed(0)
    spread = torch.linspace(1, 0.02, 40) ** 6  # as text states: a few directions hold most of the energy
    rows = torch.randn(900, 40, generator=g) * spread
    rows = rows / rows.norm(dim=1, keepdim=True)
    grams = [m.add(rows).without(rows[:0].double(), 900) for m in (Moment.empty(40), Moment.empty(40, widest=10))]
    c, t = (torch.randn(3, 40, generator=g, dtype=torch.float64) * spread for _ in "ct")
    hard = torch.zeros(40, 0, dtype=torch.float64)
    maps = [
        joint_map(Rows.stack([(c, t)]), Retention(gram=gram, ridge=1e-3, hard=hard), erase=1.0, weight=1.0)
        for gram in grams
    ]
    one, other = (m.u @ m.v.T for m in maps)
    assert float((one - other).norm() / one.norm()) < 0.01


def test_what_must_stay_exactly_is_orthonormal_and_bounded(pipe):
    model = Model(pipe)
    basis = hard_basis(model, ())
    assert basis.shape[1] == max(1, basis.shape[0] // 8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype), rtol=0, atol=1e-9)
    begin = model.projection_inputs(model.encode([""]))[0, 0].double()
    torch.testing.assert_close(basis @ (basis.T @ begin), begin, rtol=1e-5, atol=1e-5)


def test_near_rows_are_those_of_the_prompts(sd):
    model = Model(sd)
    near = near_rows(model, ["a dog", "a cat"])
    states = model.projection_inputs(model.encode(["a dog", "a cat"]))
    torch.testing.assert_close(near.states.float(), states.flatten(0, 1), rtol=0, atol=5e-3)
    torch.testing.assert_close(near.subjects.float(), states[:, 2])
    assert len(near_rows(model, []).states) == 0


def test_a_second_erasure_leaves_the_first_where_it_put_its_concept(draw):
    """M_A M_B c − M_A c = M_A (M_B c − c): what the second does to the first's rows, times the norm of the first."""
    pipe = tiny.stable_diffusion_xl()
    options = {"method": "joint", "keep": ["a dog"], "prior": "never", "anchors": 0}
    first = efface.erase(pipe, Concept("church", anchor="art"), **options)
    alone = efface.erase(pipe, Concept("cat", anchor="style"), **options)
    first.attach(pipe)
    second = efface.erase(pipe, Concept("cat", anchor="style"), **options)
    first.remove(pipe)
    assert any("church" in remark and "already" in remark for remark in second.provenance.notes["remarks"])
    model = Model(pipe)
    c = model.projection_inputs(model.encode(["church"]))[0, 1:3].double()
    moved = [float((c @ m.matrix.T - c).norm()) for m in (second, alone)]
    assert moved[0] < moved[1]
    both = c @ (first.matrix @ second.matrix).T - c @ first.matrix.T
    assert float(both.norm()) <= float(torch.linalg.matrix_norm(first.matrix, 2)) * moved[0] * (1 + 1e-9)


@pytest.mark.parametrize("method", ["uce", "rece", "preserve"])
def test_other_closed_forms_retain_what_was_erased_before(method):
    pipe = tiny.stable_diffusion()
    with efface.erase(pipe, CHURCH, method="uce", keep=["a dog"]).attached(pipe):
        second = efface.erase(pipe, Concept("dog", anchor="art"), method=method)
        assert "church" in second.provenance.keep
        assert (
            "church"
            not in efface.erase(pipe, Concept("dog", anchor="art"), method=method, keep=["a cat"]).provenance.keep
        )
    assert "church" not in efface.erase(pipe, Concept("dog", anchor="art"), method=method).provenance.keep


def test_retention_is_the_mean_of_its_parts(sd):
    model = Model(sd)
    prior = build_prior(model)
    near = near_rows(model, ["a dog"])
    only = [
        retained(model, [CHURCH], n, (), p, 1e-3).retention.gram
        for n, p in ((near, None), (near_rows(model, []), prior))
    ]
    both = retained(model, [CHURCH], near, (), prior, 1e-3).retention.gram
    torch.testing.assert_close(both, (only[0] + only[1]) / 2, rtol=1e-6, atol=1e-8)
