"""Leaks: their algebra, that their processes are those of diffusers' own pipelines, and what their findings say."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import efface
import tiny
from attacked import CHURCH, Field
from efface.attacks.leak_inpaint import middle
from efface.attacks.leak_sr import projected, projected_in_range
from efface.attacks.leaks import enlarged, own_input, reduced, repeated, skipped_steps
from efface.erasures.switch import ModelVariant
from efface.families.schedule import mixture
from efface.judges import Verdicts
from efface.metrics.restoration import restoration
from efface.models.course import Ancestral, Course, Estimating, FromPicture, Inpainted, Moment, Resumed, Steered
from efface.models.pictures import compressed, decompressed
from efface.redteam.findings import Findings
from efface.redteam.samples import Samples
from efface.redteam.store import RunStore
from tiny_families import CASES


def pixels(seed: int, by: int = 4) -> torch.Tensor:
    return torch.rand(2, 3, 4 * by, 3 * by, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@given(st.integers(0, 100), st.sampled_from([2, 3, 4]))
def test_the_null_space(seed, by):
    x, other = pixels(seed, by), pixels(seed + 1000, by)
    y = reduced(other, by)
    torch.testing.assert_close(reduced(repeated(y, by), by), y, rtol=0, atol=1e-12)  # A A⁺ = 1
    found = projected(x, y, by)
    torch.testing.assert_close(reduced(found, by), y, rtol=0, atol=1e-12)
    # What is left of x is the same but for the range of A⁺.
    torch.testing.assert_close(
        x - repeated(reduced(x, by), by), found - repeated(reduced(found, by), by), rtol=0, atol=1e-12
    )
    inside = projected_in_range(3 * x, y, by)
    assert inside.abs().max() <= 1
    torch.testing.assert_close(reduced(inside, by), y, rtol=0, atol=1e-12)


def test_a_reduction_is_a_mean():
    x = pixels(0)
    naive = np.stack([[[[c[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(3)] for i in range(4)] for c in p]
                      for p in x.numpy()])  # fmt: skip
    np.testing.assert_allclose(reduced(x, 4).numpy(), naive, atol=1e-12)
    assert enlarged(reduced(x, 4), 4).shape == x.shape


def test_the_middle():
    mask = middle(8, 4, 0.5)[0, 0]
    assert mask.sum() == 8
    assert mask[2:6, 1:3].all()
    assert middle(3, 3, 0.01).sum() == 1


class Exact:
    """A denoiser's output for known clean latents and noise, under any schedule."""

    def __init__(self, scheduler, steps=6, seed=0):
        self.scheduler = scheduler
        scheduler.set_timesteps(steps)
        g = torch.Generator().manual_seed(seed)
        self.clean, self.noise = torch.randn(2, 1, 2, 4, 4, generator=g)

    def run(self, course, clean=None):
        """Denoise with a denoiser that always sees `clean`."""
        clean = self.clean if clean is None else clean
        timesteps = course.timesteps(self.scheduler)
        latents = course.begin(self.scheduler, self.noise)
        for number, t in enumerate(timesteps, len(self.scheduler.timesteps) - len(timesteps)):
            noisy = course.read(self.scheduler, latents, t)
            mix = mixture(self.scheduler, t, noisy)
            output = mix.output(clean, (noisy - mix.a * clean) / mix.b)
            latents = course.step(self.scheduler, output, Moment(number, t, noisy, latents, {}))
        return latents


def ddim(prediction="epsilon"):
    return DDIMScheduler.from_config(tiny.scheduler(prediction).config, set_alpha_to_one=True)


SCHEDULERS = {
    "ddim": ddim,
    "ddim-v": lambda: ddim("v_prediction"),
    "euler": lambda: EulerDiscreteScheduler.from_config(ddim().config),
    "flow": FlowMatchEulerDiscreteScheduler,
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_course_ends_where_the_denoiser_points(name):
    new = SCHEDULERS[name]
    clean, hidden = Exact(new()).clean, middle(4, 4, 0.5)
    other = clean + 1
    for course in (Course(), Estimating(), FromPicture(clean - 3, 2), Ancestral(1.3, [torch.Generator()])):
        torch.testing.assert_close(Exact(new()).run(course), clean, rtol=0, atol=2e-3)
    # A steered course ends at what the estimate was changed to, whatever the denoiser sees.
    torch.testing.assert_close(Exact(new()).run(Steered(lambda x: x * 0 + other)), other, rtol=0, atol=2e-3)
    found = Exact(new()).run(Inpainted(other, hidden))
    torch.testing.assert_close(found, hidden * clean + (1 - hidden) * other, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["ddim", "flow"])
def test_the_posteriors_variance(name):
    """η = 1 keeps the variance of z: b'² of the noise in all."""
    exact = Exact(SCHEDULERS[name]())
    timesteps = exact.scheduler.timesteps
    noise = torch.randn(400, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros_like(noise)
    now, then = (mixture(exact.scheduler, timesteps[k], noise) for k in (2, 3))
    for eta in (1.0, 1.5):
        course = Ancestral(eta, [torch.Generator().manual_seed(k) for k in range(400)])
        output = now.output(zero, noise)
        found = course.step(exact.scheduler, output, Moment(2, timesteps[2], now.b * noise, noise, {}))
        forward = now.b**2 - (now.a / then.a) ** 2 * then.b**2  # of the noise between the two timesteps
        posterior = then.b**2 * forward / now.b**2
        expected = then.b**2 + (eta**2 - 1) * posterior
        assert found.var().item() == pytest.approx(expected.item(), rel=0.02)  # four deviations of 204,800 numbers


def test_going_on_is_drawing(sd):
    model = efface.Model(sd)
    text = model.encode(["a church", "a cat"])
    whole = list(model.denoise(text, seeds=[3, 4], steps=5, guidance=5.0))
    for stop in (1, 3):
        rest = list(model.denoise(text, seeds=[3, 4], steps=5, guidance=5.0, course=Resumed(whole[stop - 1][1], stop)))
        assert [t for t, _ in rest] == [t for t, _ in whole[stop:]]
        torch.testing.assert_close(rest[-1][1], whole[-1][1], rtol=0, atol=1e-5)


IMAGE_TO_IMAGE = ("sd1", "sd2", "sdxl", "sd3", "sd35", "flux-dev", "flux-schnell")


@pytest.mark.parametrize("name", IMAGE_TO_IMAGE)
def test_image_to_image_is_the_pipelines_own(name):
    """Latents in place of a picture: the pipelines draw the autoencoder's noise from the same generator otherwise."""
    case = CASES[name]
    pipe = case.build()
    own = AutoPipelineForImage2Image.from_pipe(pipe)
    own.set_progress_bar_config(disable=True)
    model = efface.Model(pipe)
    clean = torch.randn(1, *model.family.latent_shape(case.side), generator=torch.Generator().manual_seed(9))
    size = {} if name in ("sd1", "sd2", "sdxl") else {"height": case.side, "width": case.side}
    own_latents = own(
        prompt="a church", image=clean, strength=0.5, num_inference_steps=6, generator=torch.Generator().manual_seed(7),
        guidance_scale=3.0, output_type="latent", **size,
    ).images  # fmt: skip
    found = list(
        model.denoise(
            model.encode(["a church"]), seeds=[7], steps=6, guidance=3.0, side=case.side, course=FromPicture(clean, 3)
        )
    )[-1][1]
    if own_latents.ndim == 3:  # packed
        scale = pipe.vae_scale_factor
        own_latents = own._unpack_latents(own_latents, case.side, case.side, scale)
    torch.testing.assert_close(found, own_latents.to(found), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_inpainting_is_the_pipelines_own(name):
    pipe = CASES[name].build()
    own = AutoPipelineForInpainting.from_pipe(pipe)
    own.set_progress_bar_config(disable=True)
    model = efface.Model(pipe)
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    hidden = middle(8, 8, 0.5)
    mask = torch.nn.functional.interpolate(hidden, scale_factor=2)
    own_latents = own(
        prompt="a church", image=clean, mask_image=mask, strength=1.0, num_inference_steps=4, guidance_scale=3.0,
        height=16, width=16, generator=torch.Generator().manual_seed(7), output_type="latent",
        masked_image_latents=clean,
    ).images  # fmt: skip
    text = model.encode(["a church"])
    found = list(model.denoise(text, seeds=[7], steps=4, guidance=3.0, course=Inpainted(clean, hidden)))[-1][1]
    torch.testing.assert_close(found, own_latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_compressing_is_decoding_the_other_way(name):
    """Against what the autoencoder itself says: the latents that `decode` would hand it are its own encoding."""
    case = CASES[name]
    model = efface.Model(case.build())
    side = max(case.side, 16)
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = compressed(model, picture)
    assert tuple(latents.shape[1:]) == model.family.latent_shape(side)
    vae, seen = model.pipeline.vae, []
    decode = vae.decode
    try:
        vae.decode = lambda z, **options: seen.append(z) or decode(z, **options)
        decompressed(model, latents)
    finally:
        vae.decode = decode
    frames = picture[:, :, None] if seen[0].ndim == 5 else picture
    with torch.no_grad():
        expected = vae.encode(frames, return_dict=False)[0]
    expected = expected if isinstance(expected, torch.Tensor) else expected.mode()
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_pictures_without_an_autoencoder(sd):
    model = efface.Model(sd)
    vae, sd.vae = sd.vae, None
    try:
        with pytest.raises(efface.EffaceError, match="no autoencoder"):
            compressed(model, torch.zeros(1, 3, 16, 16))
    finally:
        sd.vae = vae


def test_restoration_share():
    yes, no = [True] * 8, [False] * 8
    prompts = list(range(8))
    assert restoration(yes, yes, no, prompts)[:3] == (1.0, 1.0, 1.0)
    assert restoration(no, yes, no, prompts).value == 0
    half = restoration([True, False] * 4, yes, no, prompts)
    assert half.value == 0.5
    assert half.low < 0.5 < half.high
    for powerless in (restoration(yes, yes, yes, prompts), restoration(no, no, yes, prompts)):
        assert powerless.powerless
        assert math.isnan(powerless.value)
        assert "not measured" in str(powerless)
        assert powerless.to_json()["value"] is None


@pytest.mark.parametrize("row", ["leak-sr", "leak-img2img", "leak-inpaint", "leak-begun", "leak-noise"])
def test_the_original_gives_all_of_it_back(sd, row):
    """Attacked as if it were erased, the original has the same pictures as its control."""
    field = Field(sd)
    field.erased = ModelVariant(field.model, ())
    findings: Findings = field.run(row)
    for result in findings.samples:
        assert result.controls is not None
        assert result.controls.original == result.after
    assert findings.attempted == "every"
    assert findings.restoration is not None
    assert Findings.from_json(findings.to_json()).restoration is not None
    json = findings.to_json()["restoration"]
    assert set(json) == {"value", "low", "high", "erased", "original", "without", "powerless", "line"}


def test_super_resolution_keeps_what_it_was_given(sd):
    """A x̂ = y of the written picture, but for its rounding to 255 levels."""
    field = Field(sd)
    with field.original.attached() as model:
        given = decompressed(model, field.problem().latents).clamp(-1, 1)
    problem = field.problem()
    from efface.attacks import ATTACKS, configured

    (proposal,) = ATTACKS.load("leak-sr").search(problem, configured("leak-sr", reduction=2), None)
    with problem.erased.attached() as model:
        drawn = proposal.pictures.draw(model, [0, 1])
    found = torch.stack([torch.from_numpy(np.asarray(i, dtype=np.float32)).permute(2, 0, 1) for i in drawn]) / 127.5 - 1
    assert (reduced(found, 2) - reduced(given, 2)).abs().max() <= 0.5 / 127.5 + 1e-5
    assert (found - given).abs().max() > 0.05  # and is another picture


def test_steps_are_counted_as_pipelines_do(sd):
    field = Field(sd)
    for steps, share in itertools.product((2, 5, 12, 50), (0.1, 0.3, 0.5, 0.6, 0.75)):
        problem = dataclasses.replace(field.problem(), settings={"steps": steps})
        if int(steps * share) < 1:
            with pytest.raises(efface.EffaceError, match="less than one"):
                skipped_steps(problem, share)
        else:
            assert skipped_steps(problem, share) == steps - int(steps * share)


def upscaler() -> StableDiffusionUpscalePipeline:
    """Stable Diffusion's ×4 upscaler: three more input channels, the noise level as a class."""
    torch.manual_seed(0)
    tok = tiny.tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=7, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), num_class_embeds=100,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2,
    ).eval()  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4, norm_num_groups=4, sample_size=32,
    ).eval()  # fmt: skip
    return StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=tiny.text_encoder(16, tok), tokenizer=tok, unet=unet, low_res_scheduler=DDPMScheduler(),
        scheduler=tiny.scheduler("v_prediction"), max_noise_level=100,
    )  # fmt: skip


def inpainter() -> StableDiffusionInpaintPipeline:
    """Stable Diffusion 1's inpainting model: mask and masked picture in five more input channels."""
    base = tiny.stable_diffusion()
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config({**base.unet.config, "in_channels": 9}).eval()
    return StableDiffusionInpaintPipeline(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=unet, scheduler=base.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


OWN_CALLS = {
    "leak-sr": (upscaler, {"reduction": 4, "text": "own"}),
    "leak-inpaint": (inpainter, {}),
    "leak-img2img": (lambda: AutoPipelineForImage2Image.from_pipe(tiny.stable_diffusion()), {"text": "own"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_pipelines_take(name):
    expected = "img2img" if name == "sdxl-refiner" else "text"  # the refiner's own class
    assert own_input(efface.Model(CASES[name].build())) == expected


class Everything:
    """Sees a church in every picture."""

    name, classes, detects = "everything-1", ("church", "other"), False

    def __call__(self, images):
        count = len(images)
        return Verdicts(("church",) * count, torch.tensor([[1.0, 0.0]] * count), torch.ones(count, dtype=torch.bool))


@pytest.mark.parametrize("name", OWN_CALLS)
def test_pipelines_that_draw_from_pictures(name, tmp_path):
    build, options = OWN_CALLS[name]
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    files = []
    for number in range(2):
        levels = np.random.default_rng(number).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(levels).save(files[-1])
    erasure = efface.erase(pipe, CHURCH, method="uce", rows="all", keep=[])
    common = {
        "method": name, "judge": Everything(), "pictures": files, "samples": Samples(2, sanity=0),
        "sampling": efface.Sampling(steps=2, guidance=5.0),
    } | options  # fmt: skip
    findings = efface.attack(pipe, erasure, folder=tmp_path / "run", **common)
    assert len(findings.samples) == 2
    assert findings.restoration is not None
    store = RunStore(tmp_path / "run", None)
    # The erasure acts in the pipeline's own call.
    plain = efface.attack(pipe, [], CHURCH, folder=tmp_path / "plain", **common)
    assert plain.complete
    other = RunStore(tmp_path / "plain", None)
    pairs = [(store.image(n, "attacked"), other.image(n, "attacked")) for n in range(2)]
    assert any(np.abs(np.asarray(a, float) - np.asarray(b, float)).max() > 2 for a, b in pairs)
    wrong = "leak-inpaint" if name != "leak-inpaint" else "leak-sr"
    with pytest.raises(efface.UsageError, match="expected one that draws from text"):
        efface.attack(pipe, erasure, **{k: v for k, v in common.items() if k not in options} | {"method": wrong})


def test_pictures_are_of_leaks(sd, tmp_path):
    field = Field(sd)
    with pytest.raises(efface.UsageError, match="starts from none"):
        efface.attack(sd, field.erasure, method="synonyms", judge=field.judge, pictures=["x.png"])
    with pytest.raises(efface.EffaceError, match="could not be read"):
        efface.attack(sd, field.erasure, method="leak-inpaint", judge=field.judge, pictures=[tmp_path / "x.png"])
