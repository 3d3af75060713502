"""efface's own drawing is the pipeline's own call: latents to 1e-5 where it is served, a sentence where it is refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForText2Image,
    ControlNetModel,
    DDPMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessorPil

import efface
import tiny
import tiny_families
from efface.errors import EffaceError, UsageError
from efface.families import drawing
from quick import others_slow
from tiny_adapter import load_ip_adapter

PROMPT = "a church in noto style"
QUICK = ("sd1", "sdxl-refiner", "sd35", "flux-dev", "pixart-alpha")
SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
    "LCMScheduler", "TCDScheduler", "SASolverScheduler",
)  # fmt: skip


def components(pipe, **other):
    return dict(pipe.components) | other


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def own(pipe, prompt=PROMPT, *, steps=3, guidance=5.0, seed=5, **call):
    """The latents of the pipeline's own call (1 channels height width)."""
    call = {"output_type": "latent", "num_inference_steps": steps, "guidance_scale": guidance} | call
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **call).images


def ours(pipe, prompt=PROMPT, *, steps=3, guidance=5.0, seed=5, **settings):
    model = efface.Model(pipe)
    return model.latents(model.encode([prompt]), seeds=[seed], steps=steps, guidance=guidance, **settings)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.fixture
def sd1():
    return copy.deepcopy(tiny_families.pipeline("sd1"))


@pytest.fixture
def xl():
    return copy.deepcopy(tiny_families.pipeline("sdxl"))


# Served


@pytest.mark.parametrize("name", others_slow(tiny_families.CASES, QUICK))
def test_levels_of_every_family_are_those_of_the_call(name):
    model = efface.Model(tiny_families.pipeline(name))
    text = model.encode([PROMPT])
    pixels = model.family.decode(model.latents(text, seeds=[5], steps=3, guidance=5.0))[0].permute(1, 2, 0)
    expected = tiny_families.own_picture(name, PROMPT, seed=5, steps=3, guidance=5.0, output="np")
    np.testing.assert_allclose((pixels.detach().float().numpy() / 2 + 0.5).clip(0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_steps_as_the_call_has_it(name, sd1):
    """η, noise between steps, half steps and restarts included; the pipeline's own scheduler keeps its state."""
    if name == "SASolverScheduler":
        pytest.importorskip("scipy")
    sd1.scheduler = getattr(diffusers, name).from_config(sd1.scheduler.config)
    expected = own(sd1, steps=4)
    state = copy.deepcopy(vars(sd1.scheduler))
    assert_same(ours(sd1, steps=4), expected)
    assert vars(sd1.scheduler).keys() == state.keys()
    assert_same(ours(sd1, steps=4), expected)


def test_what_was_set_on_a_scheduler_counts():
    pipe = copy.deepcopy(tiny_families.pipeline("sd35"))
    pipe.scheduler.set_shift(7.0)
    assert_same(ours(pipe), own(pipe, height=16, width=16))


@pytest.mark.parametrize("guidance", [1.0, 8.0])
@pytest.mark.parametrize("kind", [StableDiffusionPipeline, LatentConsistencyModelPipeline])
def test_a_unet_distilled_with_guidance(kind, guidance, sd1):
    torch.manual_seed(0)
    unet = tiny.unet(16, time_cond_proj_dim=8)
    parts = components(sd1, unet=unet, scheduler=LCMScheduler.from_config(sd1.scheduler.config))
    pipe = quiet(kind(**parts, requires_safety_checker=False))
    assert_same(ours(pipe, guidance=guidance), own(pipe, guidance=guidance))
    assert not efface.Model(pipe).guides(8.0)
    with pytest.raises(UsageError, match="would be ignored"):
        ours(pipe, negative="a dog")
    model = efface.Model(pipe)
    text = model.encode([PROMPT])
    usual, other = (model.predict(torch.zeros(1, 4, 8, 8), torch.tensor([500]), text, guidance=g) for g in (None, 1.0))
    assert not torch.equal(usual, other)
    with efface.erase(pipe, "church", method="uce", keep=["a dog"]).attached(pipe):
        assert_same(ours(pipe), own(pipe))


def test_an_xl_unet_distilled_with_guidance(xl):
    torch.manual_seed(0)
    unet = tiny.unet(
        40, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 24,
        use_linear_projection=True, time_cond_proj_dim=8,
    )  # fmt: skip
    parts = components(xl, unet=unet, scheduler=LCMScheduler.from_config(xl.scheduler.config))
    pipe = quiet(StableDiffusionXLPipeline(**parts, add_watermarker=False))
    assert_same(ours(pipe), own(pipe))


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_textual_inversion_of_several_vectors(vectors, sd1):
    g = torch.Generator().manual_seed(0)
    sd1.load_textual_inversion(torch.randn(vectors, 16, generator=g) * 3, token="<toy>")
    model, prompt = efface.Model(sd1), "a <toy> in art"
    states = model.encode([prompt]).states
    assert torch.equal(states, sd1.encode_prompt(prompt, "cpu", 1, False)[0])
    span = model.token_spans()[0]
    assert span.content_length("<toy>") == vectors
    assert span.position("a <toy>", prompt) == 1 + vectors
    assert_same(ours(sd1, prompt), own(sd1, prompt))
    assert_same(ours(sd1, negative="<toy>"), own(sd1, negative_prompt="<toy>"))
    concept = efface.Concept("<toy>", anchor="cat", templates=("a {}",))
    erasure = efface.erase(sd1, concept, method="uce", rows="last", keep=[], ridge=1e-9)
    toy, cat = model.encode(["a <toy>", "a cat"]).states
    torch.testing.assert_close(erasure.map(toy[1 + vectors]), cat[2], rtol=1e-3, atol=1e-3)


def test_textual_inversions_of_two_text_encoders(xl):
    g = torch.Generator().manual_seed(0)
    for width, encoder, tokenizer in ((16, xl.text_encoder, xl.tokenizer), (24, xl.text_encoder_2, xl.tokenizer_2)):
        vectors = torch.randn(3, width, generator=g)
        xl.load_textual_inversion(vectors, token="<toy>", text_encoder=encoder, tokenizer=tokenizer)
    text = efface.Model(xl).encode(["a <toy>"])
    states, _, pooled, _ = xl.encode_prompt("a <toy>", device="cpu", do_classifier_free_guidance=False)
    assert torch.equal(text.states, states)
    assert torch.equal(text.pooled, pooled)
    assert_same(ours(xl, "a <toy>"), own(xl, "a <toy>"))


def test_pictures_that_are_not_square(sd1):
    sd1.unet.register_to_config(sample_size=[8, 16])
    pipe = quiet(StableDiffusionPipeline(**components(sd1), requires_safety_checker=False))
    assert ours(pipe).shape[-2:] == (8, 16)
    assert_same(ours(pipe), own(pipe))


def checker(threshold: float) -> StableDiffusionSafetyChecker:
    """A tiny safety checker that finds something in every picture (−2) or in none (2): cosines lie between −1 and 1."""
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    made = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    made.concept_embeds_weights.data.fill_(threshold)
    made.special_care_embeds_weights.data.fill_(2.0)
    return made.eval()


@pytest.mark.parametrize("threshold", [-2.0, 2.0])
def test_the_safety_checker_looks_at_pictures_as_in_the_call(threshold, sd1):
    sd1.register_modules(
        safety_checker=checker(threshold),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )
    found = threshold < 0
    call = {"num_inference_steps": 2, "guidance_scale": 5.0, "generator": torch.Generator().manual_seed(5)}
    (expected,) = sd1(PROMPT, **call).images
    model = efface.Model(sd1)
    settings: Any = {"seeds": [5], "steps": 2, "guidance": 5.0}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (picture,) = model.draw([PROMPT], **settings)
    assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 1
    assert (np.asarray(picture).max() == 0) == found
    assert [("blackened 1 of 1 pictures" in str(w.message)) for w in said] == [True] * found
    with pytest.warns(UserWarning, match="safety checker is left out of what is measured"):
        (measured,) = model.draw([PROMPT], checked=False, **settings)
    assert np.asarray(measured).max() > 0


def test_a_watermark_is_put_on_as_in_the_call(xl):
    class Mark:
        """Stands for the invisible watermark, whose library is optional; the pipeline calls it the same way."""

        def apply_watermark(self, images):
            return (images * 0.5).clamp(-1, 0.2)

    xl.watermark = Mark()
    call = {"num_inference_steps": 2, "guidance_scale": 5.0, "generator": torch.Generator().manual_seed(5)}
    (expected,) = xl(PROMPT, **call).images
    (picture,) = efface.Model(xl).draw([PROMPT], seeds=[5], steps=2, guidance=5.0)
    assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 1
    assert np.asarray(picture).max() <= 153


def test_an_autoencoder_with_a_mean_and_a_spread_of_its_own(xl):
    torch.manual_seed(0)
    config = dict(xl.vae.config) | {"latents_mean": [0.3, -0.2, 0.1, 0.5], "latents_std": [2.0, 0.5, 1.5, 3.0]}
    del config["_use_default_values"]
    xl.register_modules(vae=diffusers.AutoencoderKL.from_config(config).eval())
    call = {"num_inference_steps": 2, "guidance_scale": 5.0, "generator": torch.Generator().manual_seed(5)}
    (expected,) = xl(PROMPT, **call).images
    (picture,) = efface.Model(xl).draw([PROMPT], seeds=[5], steps=2, guidance=5.0)
    assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 1


def test_a_class_that_changes_nothing_of_the_call(sd1):
    class Mine(StableDiffusionPipeline):
        def about(self):
            return "mine"

    pipe = quiet(Mine(**components(sd1), requires_safety_checker=False))
    assert_same(ours(pipe), own(pipe))


# Refused


def unet(channels, **more):
    torch.manual_seed(0)
    config = dict(tiny.unet(16).config) | {"in_channels": channels} | more
    del config["_use_default_values"]
    return diffusers.UNet2DConditionModel.from_config(config).eval()


def inpainting(pipe):
    return StableDiffusionInpaintPipeline(**components(pipe, unet=unet(9)), requires_safety_checker=False)


def with_nine_channels(pipe):
    return StableDiffusionPipeline(**components(pipe, unet=unet(9)), requires_safety_checker=False)


def pix2pix(pipe):
    return StableDiffusionInstructPix2PixPipeline(**components(pipe, unet=unet(8)), requires_safety_checker=False)


def upscaler(pipe):
    return StableDiffusionUpscalePipeline(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, scheduler=pipe.scheduler,
        unet=unet(7, num_class_embeds=1000), low_res_scheduler=DDPMScheduler(),
    )  # fmt: skip


def depth(pipe):
    parts = {name: components(pipe)[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    return StableDiffusionDepth2ImgPipeline(**parts, unet=unet(5), depth_estimator=None, feature_extractor=None)


def class_labels(pipe):
    return StableDiffusionPipeline(**components(pipe, unet=unet(4, num_class_embeds=10)), requires_safety_checker=False)


def image_to_image(pipe):
    return StableDiffusionImg2ImgPipeline.from_pipe(pipe)


def controlnet(pipe):
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    return StableDiffusionControlNetPipeline(**components(pipe, controlnet=net), requires_safety_checker=False)


def perturbed_attention(pipe):
    return StableDiffusionPAGPipeline(**components(pipe), requires_safety_checker=False, pag_applied_layers="mid")


def own_encoder(pipe):
    class Weighted(StableDiffusionPipeline):
        def encode_prompt(self, *args, **kwargs):
            states, negative = super().encode_prompt(*args, **kwargs)
            return 1.3 * states, negative

    return Weighted(**components(pipe), requires_safety_checker=False)


def own_call(pipe):
    class Rescaled(StableDiffusionPipeline):
        def __call__(self, *args, guidance_rescale=0.7, **kwargs):
            return super().__call__(*args, guidance_rescale=guidance_rescale, **kwargs)

    return Rescaled(**components(pipe), requires_safety_checker=False)


def patched(pipe):
    pipe.encode_prompt = lambda *args, **kwargs: (1.3 * torch.ones(1, 12, 16), None)
    return pipe


def consistency_decoder(pipe):
    pipe.register_modules(vae=diffusers.ConsistencyDecoderVAE(
        encoder_block_out_channels=(4, 8), encoder_down_block_types=("DownEncoderBlock2D",) * 2, encoder_layers_per_block=1,
        encoder_norm_num_groups=4, decoder_block_out_channels=(4, 8), decoder_layers_per_block=1,
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2, decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
        decoder_norm_num_groups=4,
    ))  # fmt: skip
    return pipe


def ip_adapter(pipe):
    load_ip_adapter(pipe)
    return pipe


REFUSED = {
    inpainting: "StableDiffusionInpaintPipeline draws otherwise or from more than a prompt",
    with_nine_channels: "the UNet takes 5 channels of a picture",
    pix2pix: "StableDiffusionInstructPix2PixPipeline",
    upscaler: "StableDiffusionUpscalePipeline",
    depth: "StableDiffusionDepth2ImgPipeline",
    class_labels: "the UNet takes class labels",
    image_to_image: "StableDiffusionImg2ImgPipeline",
    controlnet: "StableDiffusionControlNetPipeline",
    perturbed_attention: "StableDiffusionPAGPipeline",
    own_encoder: "this Weighted has a encode_prompt of its own",
    own_call: "this Rescaled has a __call__ of its own",
    patched: "this StableDiffusionPipeline has a encode_prompt of its own",
    ip_adapter: "an IP-Adapter's image",
    consistency_decoder: "random numbers of its own",
}


@pytest.mark.parametrize("build", REFUSED, ids=lambda build: build.__name__)
def test_what_is_not_the_call_is_refused_in_a_sentence(build, sd1):
    """Erasing works all the same, and so does the pipeline itself."""
    pipe = quiet(build(sd1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        efface.erase(
            pipe, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"]
        ) if build is not patched else None
    with pytest.raises(EffaceError) as error:
        efface.Model(pipe).draw([PROMPT], seeds=[0], steps=2)
    assert REFUSED[build] in str(error.value)
    assert "call the pipeline itself" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_way_out_draws(sd1):
    pipe = quiet(AutoPipelineForText2Image.from_pipe(image_to_image(sd1)))
    assert_same(ours(pipe), own(pipe))


def test_an_argument_of_tomorrow_that_does_something(monkeypatch, sd1):
    monkeypatch.setattr(drawing, "GIVEN", drawing.GIVEN - {"cfg_truncation", "num_inference_steps"})
    with pytest.raises(EffaceError, match="an argument num_inference_steps = '50'"):
        ours(sd1)


@pytest.mark.parametrize("name", tiny_families.CASES)
def test_every_family_knows_a_pipeline_of_its_own(name):
    pipe = tiny_families.pipeline(name)
    family = efface.Model(pipe).family
    assert type(pipe).__name__ in family.pipelines
    assert all(hasattr(diffusers, pipeline) for pipeline in family.pipelines) or name == "acdit"
    family.require_drawable()


def test_an_option_of_the_call_that_efface_has_not(sd1):
    with pytest.raises(UsageError, match="has no option 'clip_skip'"):
        efface.Model(sd1).draw([PROMPT], seeds=[0], clip_skip=1)


def test_a_prompt_that_is_cut_is_said(sd1):
    long = "a church in noto style with a garbage truck and a dog"
    with pytest.warns(UserWarning, match="is longer than the model reads: .* is left out"):
        efface.Model(sd1).draw([long], seeds=[0], steps=1)
    with pytest.warns(UserWarning, match="left out"):
        efface.Model(sd1).draw(["a church"], negative=long, seeds=[0], steps=1, guidance=5.0)
