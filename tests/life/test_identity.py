"""What an erasure is: its content. The same content is counted, and acts once; another object may take it off."""

from __future__ import annotations

import pytest
import torch

import efface
from alive import assert_same, fresh, gap, shoot, text_map, weights
from efface.erasures import TextMap, attached_to


@pytest.mark.parametrize("fold", [False, True])
def test_a_notebook_cell_that_runs_twice(fold, tmp_path):
    pipe = fresh()
    before, plain = weights(pipe), shoot(pipe)
    text_map().save(tmp_path / "e.safetensors")
    pictures = []
    for _ in range(2):  # the cell
        efface.Erasure.load(tmp_path / "e.safetensors").attach(pipe, fold=fold)
        pictures.append(shoot(pipe))
    assert gap(*pictures) == 0.0
    assert gap(pictures[0], plain) > 1e-3
    for _ in range(2):
        assert gap(shoot(pipe), pictures[0]) == 0.0
        efface.Erasure.load(tmp_path / "e.safetensors").remove(pipe)
    assert_same(pipe, before)
    assert gap(shoot(pipe), plain) == 0.0
    assert attached_to(pipe) == []


def test_another_scale_is_refused_and_changes_nothing():
    pipe, erasure = fresh(), text_map()
    erasure.attach(pipe, scale=0.5)
    half = shoot(pipe)
    with pytest.raises(efface.EffaceError, match=r"already attached with scale 0\.5"):
        erasure.attach(pipe)
    assert gap(shoot(pipe), half) == 0.0


def test_what_is_on_in_one_way_is_on():
    """Mapped and folded draw the same, so that the second attachment changes nothing and is counted."""
    pipe, erasure = fresh(), text_map()
    erasure.attach(pipe, fold=True)
    folded, before = shoot(pipe), weights(pipe)
    with erasure.attached(pipe):
        assert gap(shoot(pipe), folded) == 0.0
    assert_same(pipe, before)


def test_the_digest_follows_content():
    erasure = text_map()
    again = TextMap(erasure.provenance, erasure.u.clone(), erasure.v.clone())
    assert again.digest == erasure.digest
    assert TextMap(erasure.provenance, erasure.u * 2, erasure.v).digest != erasure.digest
    assert text_map("dog").digest != erasure.digest
    assert len(erasure.digest) == 64


def test_two_files_of_one_concept_are_two_erasures():
    pipe, erasure = fresh(), text_map()
    stronger = TextMap(erasure.provenance, erasure.u * 2, erasure.v)
    with erasure.attached(pipe):
        once = shoot(pipe)
        with stronger.attached(pipe):
            assert [a.erasure for a in attached_to(pipe)] == [erasure, stronger]
            assert gap(shoot(pipe), once) > 1e-4
        assert gap(shoot(pipe), once) == 0.0


def test_an_erasure_over_another_model_s_weights_is_attached_once_with_force():
    pipe = fresh()
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(1.5)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(efface.EffaceError, match="force"):
        text_map().attach(pipe)
    with pytest.warns(UserWarning, match="other weights"):
        text_map().attach(pipe, force=True)
    text_map().attach(pipe)  # counted, and as it was: nothing new is decided
    assert [a.count for a in attached_to(pipe)] == [2]
