"""Checkpoints in one file: whole, of the UNet alone, and what their reader would pass over."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
import tiny
from efface.errors import EffaceError
from efface.export.names import CHECKPOINT, original_unet


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of the model, and another UNet for it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny.stable_diffusion(seed=0).save_pretrained(folder)
    return folder, tiny.stable_diffusion(seed=1).unet


def original(unet, **more):
    """A UNet's tensors in the original layout."""
    tensors = {}
    for name, tensor in unet.state_dict().items():
        module, _, parameter = name.rpartition(".")
        tensors[f"{CHECKPOINT}{original_unet(module, unet.config)}.{parameter}"] = tensor.clone().contiguous()
    return tensors | more


def same(unet, other):
    return all(torch.equal(a, b) for a, b in zip(unet.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("layout", ["original", "diffusers", "diffusers, prefixed"])
def test_a_unet_alone_takes_the_rest_from_config(layout, base, tmp_path):
    folder, unet = base
    own = {name: t.clone() for name, t in unet.state_dict().items()}
    prefixed = {f"unet.{name}": t for name, t in own.items()}
    tensors = {"original": original(unet), "diffusers": own, "diffusers, prefixed": prefixed}[layout]
    save_file(tensors, tmp_path / "unet.safetensors")
    pipe = efface.load(tmp_path / "unet.safetensors", config=folder, device="cpu")
    assert same(pipe.unet, unet)
    assert same(pipe.text_encoder, efface.load(folder, device="cpu").text_encoder)
    if layout != "original":  # of which the Hub's cache may know the rest
        with pytest.raises(EffaceError, match=r"without text encoders: name the model.*--config"):
            efface.load(tmp_path / "unet.safetensors")


def test_some_weights_of_a_unet_replace_those_of_config(base, tmp_path):
    """What ESD and others publish: the cross-attentions alone."""
    folder, unet = base
    some = {name: t.clone() for name, t in unet.state_dict().items() if ".attn2." in name}
    save_file(some, tmp_path / "esd.safetensors")
    pipe = efface.load(tmp_path / "esd.safetensors", config=folder, device="cpu")
    kept = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in pipe.unet.state_dict().items():
        assert torch.equal(tensor, some.get(name, kept[name])), name


ONE = torch.ones(1)
REFUSED = {
    "scales of fp8 weights": ({f"{CHECKPOINT}input_blocks.0.0.scale_weight": ONE}, "input_blocks.0.0.scale_weight"),
    "a marker of them": ({f"{CHECKPOINT}scaled_fp8": ONE}, "scaled_fp8"),
    "scales of a text encoder": ({"cond_stage_model.transformer.q_proj.weight_scale": ONE}, "weight_scale"),
    "another prediction": ({"v_pred": ONE}, "v_pred"),
    "no noise at the end": ({"ztsnr": ONE}, "ztsnr"),
    "a ControlNet": ({"control_model.input_hint_block.0.weight": ONE}, "control_model"),
    "a depth network": ({"depth_model.model.scratch.weight": ONE}, "depth_model"),
    "another family": ({f"{CHECKPOINT}joint_blocks.0.x_block.weight": ONE}, "joint_blocks.0.x_block.weight"),
    "an adapter": ({f"{CHECKPOINT}input_blocks.1.1.to_k.lora_A": ONE}, "lora_A"),
    "an autoencoder that does not fit": ({"first_stage_model.decoder.conv_in.weight": torch.ones(2, 2)}, ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_reader_would_pass_over_is_refused_by_name(name, base, tmp_path):
    folder, unet = base
    tensors, sentence = REFUSED[name]
    save_file(original(unet, **tensors), tmp_path / "unet.safetensors")
    with pytest.raises(EffaceError) as error:
        efface.load(tmp_path / "unet.safetensors", config=folder)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_text_alone_is_read_after_the_names_are_checked(base, tmp_path):
    folder, unet = base
    save_file(original(unet), tmp_path / "unet.safetensors")
    text = efface.load(tmp_path / "unet.safetensors", config=folder, device="cpu", text_only=True)
    assert all(parameter.is_meta for parameter in text.unet.parameters())
    save_file(original(unet, v_pred=ONE), tmp_path / "unet.safetensors")
    with pytest.raises(EffaceError, match="holds v_pred"):
        efface.load(tmp_path / "unet.safetensors", config=folder, text_only=True)


@pytest.mark.parametrize("text_only", [False, True])
def test_what_a_part_lacks_is_named(text_only, base, tmp_path):
    """Position ids alone are no text encoder; a text encoder without a weight is no reason to take another one."""
    folder, unet = base
    tensors = original(unet)
    prefix = "cond_stage_model.transformer.text_model."
    save_file(tensors | {f"{prefix}embeddings.position_ids": torch.arange(12)[None]}, tmp_path / "unet.safetensors")
    pipe = efface.load(tmp_path / "unet.safetensors", config=folder, device="cpu", text_only=text_only)
    assert same(pipe.text_encoder, efface.load(folder, device="cpu").text_encoder)
    text = {
        n.removeprefix("text_model."): t.clone() for n, t in tiny.stable_diffusion().text_encoder.state_dict().items()
    }
    del text["final_layer_norm.weight"]
    save_file(tensors | {prefix + name: t for name, t in text.items()}, tmp_path / "unet.safetensors")
    with pytest.raises(EffaceError, match=r"text_encoder|do not fit"):
        efface.load(tmp_path / "unet.safetensors", config=folder, text_only=text_only)


def test_averaged_copies_and_schedules_are_harmless(base, tmp_path):
    folder, unet = base
    more = {f"model_ema.{name}": torch.ones(1) for name in ("decay", "num_updates")} | {
        "alphas_cumprod": torch.ones(1000)
    }
    save_file(original(unet, **more), tmp_path / "unet.safetensors")
    assert same(efface.load(tmp_path / "unet.safetensors", config=folder, device="cpu").unet, unet)


def test_a_unet_with_a_part_missing_or_of_another_model(base, tmp_path):
    folder, unet = base
    tensors = original(unet)
    del tensors[f"{CHECKPOINT}out.2.bias"]
    save_file(tensors, tmp_path / "unet.safetensors")
    with pytest.raises(EffaceError):
        efface.load(tmp_path / "unet.safetensors", config=folder)
    other = {name: t.clone() for name, t in tiny.stable_diffusion(2).unet.state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(EffaceError, match="has not: name the model that it belongs to"):
        efface.load(tmp_path / "other.safetensors", config=folder)
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(EffaceError, match="bare lacks weights"):
        efface.load(tmp_path / "other.safetensors", config=tmp_path / "bare")


def test_a_unet_alone_draws_as_its_models_pipeline(base, tmp_path):
    from diffusers import LatentConsistencyModelPipeline

    folder, unet = base
    lcm = LatentConsistencyModelPipeline.from_pretrained(folder)
    lcm.save_pretrained(tmp_path / "model")
    save_file(original(unet), tmp_path / "unet.safetensors")
    pipe = efface.load(tmp_path / "unet.safetensors", config=tmp_path / "model", device="cpu")
    assert type(pipe) is LatentConsistencyModelPipeline
    assert same(pipe.unet, unet)


def test_a_config_without_a_unet(base, tmp_path):
    _, unet = base
    save_file(original(unet), tmp_path / "unet.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(EffaceError):
        efface.load(tmp_path / "unet.safetensors", config=tmp_path / "empty")
