"""Erasures are computed from text states in float32, whatever the pipeline's precision, and leave its encoders as they were."""

from __future__ import annotations

import copy

import pytest
import torch

import efface
import tiny
from efface.families.layers import in_float32
from efface.models.model import Model


def pointers(module):
    return {name: (p.dtype, p.data_ptr(), p.data.clone()) for name, p in module.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["rece", "uce"])
def test_an_erasure_of_a_half_precision_pipeline_is_that_of_the_same_weights_in_float32(pipe, dtype, method):
    half = copy.deepcopy(pipe).to(dtype)
    before = {name: pointers(encoder) for name, encoder in efface.Model(half).family.text_encoders().items()}
    made = efface.erase(half, "church", method=method, keep=["a cat"])
    exact = efface.erase(copy.deepcopy(half).to(torch.float32), "church", method=method, keep=["a cat"])
    assert all(torch.equal(made.tensors()[name], tensor) for name, tensor in exact.tensors().items())
    for name, encoder in efface.Model(half).family.text_encoders().items():
        after = pointers(encoder)
        assert after.keys() == before[name].keys()
        for parameter, (kind, pointer, values) in before[name].items():
            assert after[parameter][:2] == (kind, pointer)
            assert torch.equal(after[parameter][2], values)


def test_rounding_of_the_encoder_changes_the_map_and_is_avoided(sd):
    half = copy.deepcopy(sd).to(torch.float16)
    model = Model(half)
    wide = model.encode_in_float32(["a church"]).states
    assert wide.dtype == torch.float32
    assert model.encode(["a church"]).states.dtype == torch.float16
    exact = Model(copy.deepcopy(half).to(torch.float32)).encode(["a church"]).states
    assert torch.equal(wide, exact)


def test_modules_are_put_back_after_an_error_and_where_weights_are_shared():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)).half()
    module[2].weight = module[0].weight
    whole = [*module.parameters()], [*module.buffers()]
    data = [p.data_ptr() for p in whole[0]]

    def stop():
        with in_float32([module, module]):
            assert {p.dtype for p in module.parameters()} == {torch.float32}
            assert module[2].weight is module[0].weight
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert all(a is b for a, b in zip(module.parameters(), whole[0], strict=True))
    assert all(a is b for a, b in zip(module.buffers(), whole[1], strict=True))
    assert [p.data_ptr() for p in module.parameters()] == data
    assert {p.dtype for p in module.parameters()} == {torch.float16}


def test_an_encoder_that_is_offloaded_layer_by_layer():
    from accelerate import cpu_offload

    half = tiny.stable_diffusion().to(torch.float16)
    exact = Model(copy.deepcopy(half).to(torch.float32)).encode(["a church"]).states
    for component in (half.text_encoder, half.unet, half.vae):
        cpu_offload(component, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in half.text_encoder.parameters())
    assert torch.equal(Model(half).encode_in_float32(["a church"]).states, exact)
    assert {p.dtype for p in half.text_encoder.parameters()} == {torch.float16}
    assert Model(half).encode(["a church"]).states.dtype == torch.float16


def test_a_device_without_room_is_said(sd, monkeypatch):
    def full(modules):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("efface.models.precision.in_float32", full)
    with pytest.warns(UserWarning, match="no room for the text encoders in float32"):
        text = Model(sd).encode_in_float32(["a church"])
    assert torch.equal(text.states, Model(sd).encode(["a church"]).states)
