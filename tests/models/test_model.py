"""Model against the pipelines themselves, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import efface
import tiny
from efface.models.fingerprint import fingerprint
from efface.models.likeness import ROUNDING
from rounding import assert_rounded

PROMPTS = ["a church in noto style", "a cat", ""]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("negative", [None, "", "a dog"])
def test_samples_are_the_pipelines_own(pipe, guidance, negative):
    pictures = efface.Model(pipe).draw(PROMPTS, seeds=[5, 6, 7], steps=3, guidance=guidance, negative=negative, batch=2)
    for prompt, seed, picture in zip(PROMPTS, (5, 6, 7), pictures, strict=True):
        expected = pipe(
            prompt, negative_prompt=negative, generator=torch.Generator().manual_seed(seed), num_inference_steps=3,
            guidance_scale=guidance,
        ).images[0]  # fmt: skip
        difference = np.abs(np.asarray(picture, int) - np.asarray(expected, int))
        assert difference.max() <= 1  # rounding of another batch size


def test_text_states_are_the_pipelines_own(pipe):
    text = efface.Model(pipe).encode(PROMPTS, batch=2)
    expected = pipe.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert_rounded(text.states, expected[0])
    if text.pooled is not None:
        assert_rounded(text.pooled, expected[2])
    assert text.truncated == ("", "", "")


def test_outputs_as_noise_and_as_clean_latents(pipe):
    model = efface.Model(pipe)
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=g).unbind()
    level = torch.tensor([10, 400, 980])
    noisy = pipe.scheduler.add_noise(clean, noise, level)
    is_v = pipe.scheduler.config.prediction_type == "v_prediction"
    exact = pipe.scheduler.get_velocity(clean, noise, level) if is_v else noise
    torch.testing.assert_close(model.to_noise(exact, noisy, level), noise, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.to_clean(exact, noisy, level), clean, rtol=1e-3, atol=1e-3)
    text = model.encode(PROMPTS)
    assert model.predict(noisy, level, text).shape == clean.shape


def test_projections(pipe):
    projections = efface.Model(pipe).text_projections()
    width = efface.Model(pipe).encode(["a"]).states.shape[-1]
    assert len(projections) == 2 * 4  # one block down, one in the middle, two up
    assert {p.module.weight.shape[1] for p in projections} == {width}
    assert len({p.name for p in projections}) == len(projections)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fingerprint_survives_rounding_and_nothing_else(pipe, dtype):
    import copy

    own = fingerprint(efface.Model(pipe))
    rounded = fingerprint(efface.Model(copy.deepcopy(pipe).to(dtype)))
    assert own.difference(rounded) == ""
    assert max(abs(a - b) for a, b in zip(own.sketch, rounded.sketch, strict=True)) < ROUNDING
    tuned = copy.deepcopy(pipe)
    with torch.no_grad():
        for projection in efface.Model(tuned).text_projections():
            weight = projection.module.weight
            weight.add_(0.2 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    assert "other weights" in own.difference(fingerprint(efface.Model(tuned)))


def test_fingerprint_ignores_what_is_attached(sd):
    own = fingerprint(efface.Model(sd))
    erasure = efface.erase(sd, "church", method="rece", keep=[])
    with erasure.attached(sd, fold=True):
        assert fingerprint(efface.Model(sd)) == own


def test_adapters_do_not_change_the_fingerprint():
    from peft import LoraConfig

    pipe = tiny.stable_diffusion()
    own = fingerprint(efface.Model(pipe))
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))
    assert fingerprint(efface.Model(pipe)) == own


def test_what_is_not_text_to_image():
    with pytest.raises(efface.EffaceError, match="not a text-to-image model"):
        efface.erase(SimpleNamespace(unet=None), "church")
    from diffusers import DDIMPipeline, UNet2DModel

    plain = DDIMPipeline(UNet2DModel(sample_size=8, block_out_channels=(8, 16), norm_num_groups=4,
                                     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2),
                         tiny.scheduler("epsilon"))  # fmt: skip
    with pytest.raises(efface.EffaceError, match="DDIMPipeline is not a text-to-image"):
        efface.erase(plain, "church")


def test_loading_a_folder(sd, tmp_path):
    sd.save_pretrained(tmp_path / "pipe")
    loaded = efface.load(tmp_path / "pipe")
    assert fingerprint(efface.Model(loaded)) == fingerprint(efface.Model(sd))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.ckpt", b"\x80\x02", "pickled"),
        ("model.safetensors", b"no", "no pipeline could be loaded"),
        ("folder", None, "model_index.json"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, name, content, message):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(efface.EffaceError, match=message) as error:
        efface.load(path)
    assert "\n" not in str(error.value)


def test_judge_based_stopping_keeps_the_best_epoch(sd):
    rates = iter([0.5, 0.2, 0.4, 0.3])
    seen = []

    def judge(erasure):
        seen.append(erasure)
        return next(rates)

    options = {"method": "rece", "keep": ["a dog"], "epochs": 3}
    best = efface.erase(sd, "church", judge=judge, **options)
    assert best.provenance.notes["judged"] == [0.5, 0.2, 0.4, 0.3]
    assert torch.equal(best.u, seen[1].u)
    rates = iter([0.5, 0.0])
    seen.clear()
    stopped = efface.erase(sd, "church", judge=judge, **options)
    assert len(seen) == 2
    assert torch.equal(stopped.u, seen[1].u)
