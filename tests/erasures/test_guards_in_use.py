"""Guards in the situations of use in which they might be off, doubled or stale without a word."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EDMEulerScheduler,
    FirstBlockCacheConfig,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback

import efface
import tiny
import tiny_families
from efface import Concept
from efface.erasures.guards.steer import Sign
from policy_erasures import GUARDS

PROMPT = "a church in noto style"
CHURCH = Concept("church", anchor="cat", templates=("a {}",))
OUTPUT, TEXT = ["sld", "negative-prompt", "crg"], ["safree", "seot"]


def guard(pipe, method, **options):
    return efface.erase(pipe, CHURCH, method=method, **GUARDS[method] | options)


def drawn(pipe, prompt=PROMPT, **call):
    call = {"num_inference_steps": 2, "output_type": "np"} | call
    return np.asarray(pipe(prompt, generator=torch.Generator().manual_seed(0), **call).images, float)


def watch_text(network, seen):
    """Keep the text states that a network's middle is given."""
    network.mid_block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"].clone()), with_kwargs=True
    )


@pytest.fixture
def signs(monkeypatch):
    """What a steered text encoder's calls were taken for, in order."""
    found, call = [], Sign.__call__

    def noted(self, *arguments):
        call(self, *arguments)
        found.append(self.value)

    monkeypatch.setattr(Sign, "__call__", noted)
    return found


@pytest.mark.parametrize(
    ("family", "prompt", "more"),
    [
        ("sd1", PROMPT, {}),
        ("sd1", ["a church", ""], {}),
        ("sd1", ["a church", "a cat"], {"negative_prompt": ["a cat", "ugly"]}),
        ("sd1", "ugly", {"negative_prompt": "ugly"}),
        ("sana", "A Church In Noto Style", {}),
        ("sana", "church", {"negative_prompt": "a church"}),
        pytest.param("lumina2", "a church, " * 60, {}, marks=pytest.mark.slow),
        pytest.param("qwen-image", PROMPT, {"negative_prompt": "a cat"}, marks=pytest.mark.slow),
        pytest.param("hunyuandit", "a church", {"negative_prompt": "a church"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_prompts_and_negative_prompts_are_told_apart_by_where_they_are_read(family, prompt, more, signs):
    pipe = copy.deepcopy(tiny_families.pipeline(family))
    with guard(pipe, "concept-steerers").attached(pipe):
        signs.clear()
        drawn(pipe, prompt, num_inference_steps=1, **more)
    assert signs in ([1.0, -1.0], [1.0, -1.0, 1.0, -1.0])


def test_texts_that_are_encoded_by_hand_have_their_signs(sd, signs):
    with guard(sd, "concept-steerers").attached(sd), torch.no_grad():
        signs.clear()
        sd.encode_prompt("a church", "cpu", 1, True, "a cat")
        assert signs == [1.0, -1.0]


def test_states_that_a_steerer_did_not_see_are_told_of():
    pipe = tiny.stable_diffusion()
    with torch.no_grad():
        states, negative = pipe.encode_prompt("a church", "cpu", 1, True, "a cat")
    given = {"prompt_embeds": states, "negative_prompt_embeds": negative}
    before = drawn(pipe, None, **given)
    with guard(pipe, "concept-steerers").attached(pipe), pytest.warns(UserWarning, match="prompt_embeds were given"):
        assert np.array_equal(drawn(pipe, None, **given), before)


@pytest.mark.parametrize("method", [*OUTPUT, *TEXT])
def test_an_edit_of_the_text_encoder_comes_and_goes(method, tmp_path):
    """A guard's own texts are those of the encoder without it, in whatever order they come."""
    alone, pipe, later = (tiny.stable_diffusion() for _ in range(3))
    itd = efface.erase(pipe, CHURCH, method="itd", keep=["a dog"], **tiny.text_options(pipe, tmp_path / "text"))
    made = guard(pipe, method)
    made.attach(alone)
    itd.attach(pipe)
    made.attach(pipe)
    both = drawn(pipe)
    itd.remove(pipe)
    assert np.array_equal(drawn(alone), drawn(pipe))
    made.attach(later)
    itd.attach(later)
    assert np.array_equal(drawn(later), both)


@pytest.mark.parametrize("method", [*OUTPUT, *TEXT])
def test_a_text_encoder_that_is_written_to_is_read_again(method):
    pipe, other = tiny.stable_diffusion(), tiny.stable_diffusion()
    made = guard(pipe, method)
    made.attach(pipe)
    before = drawn(pipe)
    with torch.no_grad():
        for encoder in (pipe.text_encoder, other.text_encoder):
            for weight in encoder.parameters():
                weight.data *= 1.5  # as adapters are merged, past autograd
    made.attach(other, force=True)
    assert np.array_equal(drawn(pipe), drawn(other))
    assert not np.array_equal(drawn(pipe), before)


def test_a_map_of_the_concept_leaves_a_guard_its_own_text():
    """What a guard leads away from is the concept, not what a map makes of it."""
    pipe, seen = tiny.stable_diffusion(), []
    made = guard(pipe, "sld")
    (text,) = made.rules[0].phrases
    plain = efface.Model(pipe).encode([text]).states[0]
    with efface.erase(pipe, CHURCH, method="uce", keep=["a dog"]).attached(pipe), made.attached(pipe):
        watch_text(pipe.unet, seen)
        drawn(pipe, text, num_inference_steps=1)
    (_, mapped), aside = seen
    torch.testing.assert_close(aside[0], plain)
    assert not torch.allclose(mapped, plain)


def test_a_window_that_is_over_is_said():
    pipe = tiny.stable_diffusion()
    redraw = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    made = guard(redraw, "safree", window=0.2)
    call = {"image": torch.rand(1, 3, 16, 16), "strength": 0.5, "num_inference_steps": 4}
    before = drawn(redraw, **call)
    with made.attached(redraw), pytest.warns(UserWarning, match=r"window of .* is over: it changes nothing"):
        assert np.array_equal(drawn(redraw, **call), before)


def test_guidance_that_ends_half_way(sd):
    call = {"num_inference_steps": 4, "callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.5)}
    call |= {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with guard(sd, "sld").attached(sd), pytest.warns(UserWarning, match="steps of this picture are drawn without"):
        drawn(sd, **call)
    with guard(sd, "seot").attached(sd):
        assert not np.array_equal(drawn(sd, **call), drawn(sd, "a dog", **call))


def test_guidance_that_a_callback_changes(sd):
    """The negative prompt by the guard and by hand are the same at every scale."""

    def raised(pipe, step, timestep, tensors):
        pipe._guidance_scale = 12.0
        return {}

    made = guard(sd, "negative-prompt")
    (text,) = made.rules[0].phrases
    by_hand = drawn(sd, negative_prompt=text, num_inference_steps=3, callback_on_step_end=raised)
    with made.attached(sd):
        guarded = drawn(sd, num_inference_steps=3, callback_on_step_end=raised)
    assert np.abs(guarded - by_hand).max() < 1e-4


@pytest.mark.parametrize(
    ("family", "cut"),
    [
        ("lumina2", {"cfg_trunc_ratio": 0.5, "cfg_normalization": False}),
        ("z-image", {"cfg_truncation": 0.1, "guidance_scale": 4.0}),
    ],
)
def test_guidance_that_the_call_cuts_off(family, cut):
    """The negative prompt by the guard and by hand are the same where guidance ends before the last step, which is said."""
    pipe = tiny_families.pipeline(family)
    call = {"num_inference_steps": 4, "height": 64, "width": 64} | cut
    whole = call | {name: 1.0 for name in cut if name.startswith("cfg_trunc")}
    made = guard(pipe, "negative-prompt")
    (text,) = made.rules[0].phrases
    by_hand = drawn(pipe, negative_prompt=text, **call)
    assert not np.array_equal(by_hand, drawn(pipe, negative_prompt=text, **whole))
    with made.attached(pipe), pytest.warns(UserWarning, match="steps of this picture are drawn without"):
        assert np.abs(drawn(pipe, **call) - by_hand).max() < 1e-4


def test_a_schedule_that_is_drawn_in_part():
    """The first half of a schedule under the negative prompt by the guard and by hand are the same (SDXL's base)."""
    pipe = tiny.stable_diffusion_xl()
    made = guard(pipe, "negative-prompt")
    (text,) = made.rules[0].phrases
    call = {"num_inference_steps": 4, "denoising_end": 0.5, "output_type": "latent"}
    by_hand, plain = drawn(pipe, negative_prompt=text, **call), drawn(pipe, **call)
    assert not np.allclose(by_hand, plain)
    with made.attached(pipe):
        assert np.abs(drawn(pipe, **call) - by_hand).max() < 1e-4


def test_a_controlnet_is_given_the_same_text():
    pipe = tiny.stable_diffusion()
    control = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    pipe = StableDiffusionControlNetPipeline(**pipe.components | {"controlnet": control}, requires_safety_checker=False)
    seen = []
    with guard(pipe, "seot").attached(pipe):
        for network in (control, pipe.unet):
            watch_text(network, seen)
        drawn(pipe, image=torch.rand(1, 3, 16, 16), num_inference_steps=1)
        first, second = seen
        assert torch.equal(first, second)
        drawn(pipe, image=torch.rand(1, 3, 16, 16), num_inference_steps=1, guess_mode=True)
    assert not torch.equal(first[1], efface.Model(pipe).encode([PROMPT]).states[0])


def test_a_padding_token_in_a_prompt_counts_as_one_of_its_own():
    """Stable Diffusion 2 pads with "!"."""
    pipe = copy.deepcopy(tiny_families.pipeline("sd2"))
    pipe.tokenizer.pad_token = "!"
    made = guard(pipe, "seot")
    with made.attached(pipe):
        drawn(pipe, "! a church", num_inference_steps=1)
        (hook,) = (h.run for h in pipe.unet._forward_pre_hooks.values() if hasattr(h, "run"))
        (found,) = hook.made.edits
    ids = pipe.tokenizer("! a church", add_special_tokens=False).input_ids
    assert found == (0, tuple(ids))


@pytest.mark.parametrize("method", TEXT)
def test_prompts_put_together_are_refused(sd, method):
    with guard(sd, method).attached(sd):
        with torch.no_grad():
            parts = [sd.encode_prompt(text, "cpu", 1, True, "") for text in ("a dog", PROMPT)]
        states, negative = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        with pytest.raises(efface.EffaceError, match="put together of several"):
            drawn(sd, None, prompt_embeds=states, negative_prompt_embeds=negative)


def test_a_picture_that_is_broken_off_leaves_nothing_to_the_next():
    pipe = copy.deepcopy(tiny_families.pipeline("qwen-image"))
    call = {"negative_prompt": "a cat", "num_inference_steps": 2, "height": 32, "width": 32}
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:  # after a conditional call, before its unconditional one
            raise KeyboardInterrupt

    with guard(pipe, "negative-prompt").attached(pipe):
        whole = drawn(pipe, **call)
        handle = pipe.transformer.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            drawn(pipe, **call)
        handle.remove()
        assert np.array_equal(drawn(pipe, **call), whole)


def test_a_text_encoder_that_is_gone(sd):
    pipe = tiny.stable_diffusion()
    with guard(pipe, "sld").attached(pipe):
        with torch.no_grad():
            states, negative = pipe.encode_prompt("a cat", "cpu", 1, True, "")
        before = drawn(pipe, None, prompt_embeds=states, negative_prompt_embeds=negative)
        encoder, pipe.text_encoder = pipe.text_encoder, None
        assert np.array_equal(drawn(pipe, None, prompt_embeds=states, negative_prompt_embeds=negative), before)
        pipe.text_encoder = encoder


@pytest.mark.filterwarnings("ignore")
def test_what_is_refused_in_a_sentence(tmp_path):
    pipe = tiny.stable_diffusion()
    pipe.scheduler = EDMEulerScheduler()
    with guard(pipe, "seot").attached(pipe), pytest.raises(efface.EffaceError, match="EDMEulerScheduler do not say"):
        drawn(pipe)
    flux = copy.deepcopy(tiny_families.pipeline("flux-dev"))
    made = guard(flux, "sld")
    flux.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(efface.EffaceError, match="disable_cache"):
        made.attach(flux)
    xl = copy.deepcopy(tiny_families.pipeline("sdxl"))
    with guard(xl, "negative-prompt").attached(xl), pytest.raises(efface.EffaceError, match="negative_prompt_2"):
        drawn(xl, negative_prompt="a cat", negative_prompt_2="a dog")
    itd = efface.erase(xl, CHURCH, method="itd", keep=["a dog"], **tiny.text_options(xl, tmp_path / "text"))
    with itd.attached(xl), pytest.raises(efface.EffaceError, match="leave clip_skip out"):
        drawn(xl, clip_skip=2)
