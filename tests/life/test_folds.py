"""Erasures in weights that others work on: the original is never written over later work."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import efface
from alive import assert_same, delta, fresh, gap, shoot, text_map, weights
from efface.erasures import attached_to
from efface.export import ExportConfig, export

SAID = "were changed by others"


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA on the edited layers."""
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    other = efface.erase(fresh(), efface.Concept("dog", anchor="art"), method="uce", keep=[])
    export(other, fresh(), path, ExportConfig("lora", steps=1))
    return path


def fused(pipe, lora):
    pipe.load_lora_weights(lora)
    pipe.fuse_lora()
    return pipe


def test_a_lora_fused_over_it_stays(lora):
    pipe, plain = fresh(), shoot(fresh())
    wanted = shoot(fused(fresh(), lora))
    text_map().attach(pipe, fold=True)
    fused(pipe, lora)
    assert "changed since" in str(efface.check(pipe))
    with pytest.warns(UserWarning, match=rf"{SAID} .* subtracted"):
        text_map().remove(pipe)
    assert gap(shoot(pipe), wanted) < 1e-4
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert gap(shoot(pipe), plain) < 1e-4
    assert attached_to(pipe) == []


def test_a_lora_fused_under_it_stays_bit_for_bit(lora):
    pipe = fused(fresh(), lora)
    pipe.unload_lora_weights()
    before = weights(pipe)
    with pytest.warns(UserWarning, match="other weights"):
        text_map().attach(pipe, fold=True, force=True)
    text_map().remove(pipe)
    assert_same(pipe, before)


def test_a_lora_loaded_and_not_fused_changes_nothing(lora):
    pipe = fresh()
    before = weights(pipe)
    text_map().attach(pipe, fold=True)
    pipe.load_lora_weights(lora)
    assert efface.check(pipe).intact
    text_map().remove(pipe)
    pipe.unload_lora_weights()
    assert_same(pipe, before)


@pytest.mark.parametrize("unfuse", [False, True])
def test_fused_projections_are_freed_too(unfuse):
    pipe = fresh()
    plain, before = shoot(pipe), weights(pipe)
    text_map().attach(pipe, fold=True)
    erased = shoot(pipe)
    pipe.fuse_qkv_projections()
    assert efface.check(pipe).intact
    assert gap(shoot(pipe), erased) < 1e-4
    if unfuse:
        pipe.unfuse_qkv_projections()
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) < 1e-4
    pipe.unfuse_qkv_projections()
    now = weights(pipe)
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_a_map_stays_on_when_projections_are_fused():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)
    pipe.fuse_qkv_projections()
    assert gap(shoot(pipe), erased) < 1e-4
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) < 1e-4


@pytest.mark.parametrize("how", ["load_state_dict", "copied", "assigned"])
def test_weights_loaded_in_place_stop_the_call_and_stay(how):
    pipe, source = fresh(), weights(fresh())
    text_map().attach(pipe, fold=True)
    shoot(pipe)
    original = fresh().unet.state_dict()
    tuned = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in original.items()}
    loaded = original if how == "load_state_dict" else tuned
    if how == "assigned":
        for name, parameter in pipe.unet.named_parameters():
            parameter.data = tuned[name].clone()
    elif how == "copied":
        with torch.no_grad():
            for name, parameter in pipe.unet.named_parameters():
                parameter.copy_(tuned[name])
    else:
        pipe.unet.load_state_dict(loaded)
    assert not efface.check(pipe).intact
    with pytest.raises(efface.EffaceError, match="no longer hold it"):
        shoot(pipe)
    with pytest.warns(UserWarning, match=SAID):
        text_map().remove(pipe)
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in pipe.unet.state_dict().items())
    assert_same(pipe, source) if how == "load_state_dict" else None
    assert attached_to(pipe) == []


def test_averaged_weights_swapped_in_and_out():
    """As a trainer's EMA does: stored, replaced, restored."""
    pipe = fresh()
    before = weights(pipe)
    text_map().attach(pipe, fold=True)
    erased = shoot(pipe)
    stored = [p.detach().clone() for p in pipe.unet.parameters()]
    with torch.no_grad():
        for p in pipe.unet.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        for p, kept in zip(pipe.unet.parameters(), stored, strict=True):
            p.copy_(kept)
    assert efface.check(pipe).intact
    assert gap(shoot(pipe), erased) == 0.0
    text_map().remove(pipe)
    assert_same(pipe, before)


def test_what_cannot_be_told_is_asked():
    pipe = fresh()
    plain = weights(pipe)
    text_map().attach(pipe, fold=True)
    erased = weights(pipe)
    halves = {name: (plain[name] + erased[name]) / 2 for name in plain}
    with torch.no_grad():
        for name, parameter in pipe.unet.named_parameters():
            parameter.copy_(halves[f"unet.{name}"])
    with pytest.raises(efface.EffaceError, match="subtract=True"):
        text_map().remove(pipe)
    assert len(attached_to(pipe)) == 1
    assert_same(pipe, halves)
    twin = copy.deepcopy(pipe)
    with pytest.warns(UserWarning, match="left as they are"):
        text_map().remove(twin, subtract=False)
    assert_same(twin, halves)
    with pytest.warns(UserWarning, match="subtracted"):
        text_map().remove(pipe, subtract=True)
    now = weights(pipe)
    for name, tensor in halves.items():
        torch.testing.assert_close(now[name], tensor - (erased[name] - plain[name]), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:this erasure of 'dog' was made for another model")
def test_folding_over_a_changed_fold_is_refused():
    pipe = fresh()
    text_map().attach(pipe, fold=True)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(1e-3)
    changed = weights(pipe)
    with pytest.raises(efface.EffaceError, match="remove that first"):
        text_map("dog").attach(pipe, fold=True, force=True)
    assert_same(pipe, changed)
    assert len(attached_to(pipe)) == 1


def test_a_fold_that_fails_changes_nothing():
    pipe = fresh()
    before, plain = weights(pipe), shoot(pipe)
    text_map().attach(pipe, fold=True)
    erased = weights(pipe)
    with pytest.raises(efface.EffaceError, match="not finite"):
        delta().attach(pipe, scale=3e38)
    assert_same(pipe, erased)
    assert [a.erasure for a in attached_to(pipe)] == [text_map()]
    text_map().remove(pipe)
    assert_same(pipe, before)
    assert gap(shoot(pipe), plain) == 0.0


def test_any_order_of_several(lora):
    pipe = fresh()
    before = weights(pipe)
    edits = [text_map(), delta(), text_map("dog")]
    for edit in edits:
        edit.attach(pipe, fold=True)
    with_two = fresh()
    for edit in edits[1:]:
        edit.attach(with_two, fold=True)
    edits[0].remove(pipe)
    assert_same(pipe, weights(with_two))
    edits[2].remove(pipe)
    edits[1].remove(pipe)
    assert_same(pipe, before)


def test_quantised_after_folding_cannot_be_taken_off():
    pipe = fresh()
    text_map().attach(pipe, fold=True)
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    before = weights(pipe)
    with pytest.raises(efface.EffaceError, match="quantised since"):
        text_map().remove(pipe)
    assert_same(pipe, before)
    assert "quantised since" in str(efface.check(pipe))


def test_a_layer_that_is_gone_is_said():
    pipe = fresh()
    text_map().attach(pipe, fold=True)
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    attention.to_k = torch.nn.Identity()
    with pytest.warns(UserWarning, match=SAID):
        text_map().remove(pipe)


def test_nothing_is_said_where_nothing_happened():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = fresh()
        for fold in (False, True):
            with text_map().attached(pipe, fold=fold):
                shoot(pipe)


def test_the_self_check_may_be_left_out(monkeypatch):
    monkeypatch.setenv("EFFACE_SELF_CHECK", "0")
    pipe = fresh()
    text_map().attach(pipe, fold=True)
    pipe.unet.load_state_dict(fresh().unet.state_dict())
    shoot(pipe)
