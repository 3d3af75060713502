"""Networks that are replaced, added, dropped or called by themselves while an erasure is attached."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

import efface
from alive import assert_same, fresh, gap, shoot, text_map, weights
from efface.erasures import attached_to

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def control(unet: UNet2DConditionModel, seed: int = 3) -> ControlNetModel:
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():  # a new ControlNet's output is zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net


@pytest.mark.parametrize("fold", [False, True])
def test_the_denoiser_is_replaced_by_a_copy(fold):
    pipe = fresh()
    before, plain, new = weights(pipe), shoot(pipe), fresh().unet
    old = pipe.unet
    with text_map().attached(pipe, fold=fold):
        erased = shoot(pipe)
        pipe.unet = new
        assert "replaced" in efface.check(pipe).rows[0].problem
        assert gap(shoot(pipe), erased) == 0.0
        assert efface.check(pipe).intact
    assert_same(pipe, before)
    assert gap(shoot(pipe), plain) == 0.0
    pipe.unet = old
    assert_same(pipe, before)
    assert gap(shoot(pipe), plain) == 0.0


def test_a_replaced_denoiser_is_freed():
    pipe = fresh()
    text_map().attach(pipe)
    shoot(pipe)
    gone = weakref.ref(pipe.unet)
    pipe.unet = fresh().unet
    shoot(pipe)
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("fold", [False, True])
def test_the_denoiser_is_replaced_by_another_model_s(fold):
    pipe = fresh()
    text_map().attach(pipe, fold=fold)
    with torch.no_grad():
        other = fresh().unet
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    pipe.unet = other
    with pytest.raises(efface.EffaceError, match=r"unet of the pipeline was replaced .* another model"):
        shoot(pipe)
    with pytest.raises(efface.EffaceError, match="replaced"):
        efface.Model(pipe).draw(["a church"], seeds=[0], steps=1)
    text_map().remove(pipe)
    shoot(pipe)


def test_efface_s_own_drawing_follows_a_replaced_denoiser():
    pipe = fresh()
    text_map().attach(pipe)
    draw = lambda p: np.asarray(efface.Model(p).draw(["a church"], seeds=[0], steps=2)[0], dtype=float) / 255  # noqa: E731
    erased = draw(pipe)
    pipe.unet = fresh().unet
    assert gap(draw(pipe), erased) == 0.0
    assert gap(draw(fresh()), erased) > 1e-3


@pytest.mark.parametrize("fold", [False, True])
def test_the_text_encoder_is_dropped(fold):
    pipe = fresh()
    before, plain = weights(pipe), shoot(pipe)
    with text_map().attached(pipe, fold=fold):
        erased = shoot(pipe)
        states, negative = pipe.encode_prompt("a church", "cpu", 1, True)
        encoder, tokenizer = pipe.text_encoder, pipe.tokenizer
        pipe.text_encoder = pipe.tokenizer = None
        again = shoot(pipe, None, prompt_embeds=states, negative_prompt_embeds=negative)
        assert gap(again, erased) < 1e-6
    pipe.text_encoder, pipe.tokenizer = encoder, tokenizer
    assert_same(pipe, before)
    assert gap(shoot(pipe), plain) == 0.0


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("fold", [False, True])
def test_controlnets_added_later(fold, count):
    pipe = fresh()
    nets = [control(pipe.unet, seed) for seed in range(count)]
    text_map().attach(pipe, fold=fold)
    both = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=nets[0] if count == 1 else nets)
    both.set_progress_bar_config(disable=True)
    image = PICTURE if count == 1 else [PICTURE] * 2
    erased = shoot(both, image=image)
    assert len(attached_to(both)) == 1
    text_map().remove(pipe)
    plain = shoot(both, image=image)
    reference = copy.deepcopy(both)
    with torch.no_grad():
        for projection in efface.Model(reference).text_projections():
            projection.module.weight.copy_(projection.module.weight.double() @ text_map().matrix)
    assert gap(erased, shoot(reference, image=image)) < 2e-3
    assert gap(erased, plain) > 1e-3
    assert attached_to(both) == []


def test_a_controlnet_set_or_appended_later():
    pipe = fresh()
    both = StableDiffusionControlNetPipeline(
        **{k: v for k, v in pipe.components.items() if k != "image_encoder"},
        controlnet=MultiControlNetModel([control(pipe.unet)]),
        requires_safety_checker=False,
    )
    both.set_progress_bar_config(disable=True)
    text_map().attach(pipe)
    shoot(both, image=[PICTURE])
    both.controlnet.nets.append(control(pipe.unet, 4))
    two = shoot(both, image=[PICTURE, PICTURE])
    handles = [h for net in both.controlnet.nets for h in net._forward_pre_hooks]
    assert len(handles) == 2
    both.controlnet = MultiControlNetModel(list(both.controlnet.nets))
    assert gap(shoot(both, image=[PICTURE, PICTURE]), two) == 0.0
    text_map().remove(pipe)
    assert not any(net._forward_pre_hooks for net in both.controlnet.nets)


def test_hooks_that_others_cleared_are_put_on_again():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)
    pipe.unet._forward_pre_hooks.clear()
    assert not efface.check(pipe).intact
    assert gap(shoot(pipe), erased) == 0.0
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0


def test_a_network_called_by_itself():
    pipe = fresh()
    model = efface.Model(pipe)
    states = model.encode(["a church"]).states
    noise, step = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    expected = pipe.unet(noise, step, text_map().map(states)).sample
    view = StableDiffusionPipeline.from_pipe(pipe)
    text_map().attach(pipe)
    shoot(view)  # both have hooks of their own now
    assert torch.equal(pipe.unet(noise, step, states).sample, expected)
    assert torch.equal(model.predict(noise, step, model.encode(["a church"])), expected)


def test_textual_inversion_loaded_while_attached():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)
    pipe.load_textual_inversion({"<toy>": torch.ones(16)}, token="<toy>")
    assert gap(shoot(pipe), erased) == 0.0
    assert shoot(pipe, "a <toy> church").shape == erased.shape
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0


def test_moved_and_cast_while_attached(bfloat16):
    for fold in (False, True):
        pipe = fresh()
        text_map().attach(pipe, fold=fold)
        pipe.to(torch.bfloat16)
        assert efface.check(pipe).intact
        text_map().remove(pipe)
        assert_same(pipe, weights(fresh().to(torch.bfloat16)))
        pipe = fresh()
        text_map().attach(pipe, fold=fold)
        pipe.to(torch.float16).to(torch.float32)
        text_map().remove(pipe)
        assert_same(pipe, weights(fresh().to(torch.float16).to(torch.float32)))


def test_weights_loaded_in_place_under_a_map_are_said():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.data.add_(0.05)
    assert "other weights" in efface.check(pipe).rows[0].problem
    assert gap(shoot(pipe), plain) > 1e-3  # the map acts on whatever is there


def test_given_text_states_pass_an_erasure_in_the_text_encoder():
    pipe = fresh()
    erasure = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="hirm", keep=[], iterations=2, lr=1e-2)
    states, _ = pipe.encode_prompt("a church", "cpu", 1, False)
    plain = shoot(pipe, None, prompt_embeds=states, guidance_scale=1.0)
    with erasure.attached(pipe):
        with pytest.warns(UserWarning, match="'church' lives in the text encoder, and prompt_embeds were given"):
            assert gap(shoot(pipe, None, prompt_embeds=states, guidance_scale=1.0), plain) == 0.0
        again, _ = pipe.encode_prompt("a church", "cpu", 1, False)
        assert gap(shoot(pipe, None, prompt_embeds=again, guidance_scale=1.0), plain) > 1e-5  # and it is said once
