"""S = Σ WᵀW of a model: from its unedited, effective weights, and from the cache when nothing changed."""

from __future__ import annotations

import torch

import efface
import tiny
from efface.closed_form import gram


def naive(pipe) -> torch.Tensor:
    """The sum as it is written."""
    return sum(p.weight().double().T @ p.weight().double() for p in efface.Model(pipe).text_projections())


def test_s_is_the_sum_over_all_projections(pipe):
    torch.testing.assert_close(gram.key_value_gram_of(efface.Model(pipe)), naive(pipe), rtol=1e-12, atol=1e-12)


def test_s_is_of_the_unedited_weights(sd):
    expected = naive(sd)
    erasure = efface.erase(sd, "church", method="uce", keep=[])
    with erasure.attached(sd, fold=True):
        torch.testing.assert_close(gram.key_value_gram_of(efface.Model(sd)), expected, rtol=1e-12, atol=1e-12)


def test_the_cache_is_used_follows_the_weights_and_mends_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    pipe = tiny.stable_diffusion()
    first = gram.key_value_gram_of(efface.Model(pipe))
    (file,) = (tmp_path / "cache").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(gram, "key_value_gram", lambda weights: 1 / 0)
        assert torch.equal(gram.key_value_gram_of(efface.Model(pipe)), first)
    file.write_bytes(b"damaged")
    assert torch.equal(gram.key_value_gram_of(efface.Model(pipe)), first)
    with torch.no_grad():  # the last weight of the last matrix, which no sample of the key covers
        efface.Model(pipe).text_projections()[-1].module.weight.view(-1)[-1] += 1
    changed = gram.key_value_gram_of(efface.Model(pipe))
    torch.testing.assert_close(changed, naive(pipe), rtol=1e-12, atol=1e-12)
    assert not torch.equal(changed, first)


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "file"))
    pipe = tiny.stable_diffusion()
    torch.testing.assert_close(gram.key_value_gram_of(efface.Model(pipe)), naive(pipe), rtol=1e-12, atol=1e-12)
