"""Loading: variants, single files, the Hub's cache without the Hub, precision as on disk, and what is refused."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import efface
import tiny
from efface.export.names import CHECKPOINT, original_unet
from efface.models.files import variant_in
from efface.models.fingerprint import fingerprint
from tiny_families import pipeline

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Where diffusers looks for the configuration of SD 1.x."""


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach another machine fails the test."""

    def refuse(*args, **kwargs):
        pytest.fail(f"the network was asked: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def unreachable(monkeypatch):
    """A machine without internet; returns the list of hosts that were asked for."""
    asked = []

    def refuse(host, *args, **kwargs):
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub; returns a function that puts a folder into it under a repository's name."""
    from diffusers.pipelines import pipeline_utils
    from huggingface_hub import constants

    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(pipeline_utils, "HF_HUB_CACHE", str(root), raising=False)

    def put(folder, repository):
        place = root / f"models--{repository.replace('/', '--')}"
        commit = "0" * 40
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(commit)

    return put


@pytest.fixture(scope="module")
def folder(sd, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    sd.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def half(folder, tmp_path_factory):
    """A folder whose weights are of the variant fp16 alone."""
    path = tmp_path_factory.mktemp("half") / "tiny"
    efface.load(folder, dtype="float16").save_pretrained(path, variant="fp16")
    return path


def unet_alone(pipe, path: Path) -> Path:
    """A checkpoint with the UNet in the original layout and nothing else."""
    tensors = {}
    for name, tensor in pipe.unet.state_dict().items():
        module, _, parameter = name.rpartition(".")
        tensors[f"{CHECKPOINT}{original_unet(module, pipe.unet.config)}.{parameter}"] = tensor.clone().contiguous()
    save_file(tensors, path)
    return path


VARIANTS = {
    "plain": (["unet/diffusion_pytorch_model.safetensors"], None),
    "both": (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"], None),
    "fp16 alone": (
        ["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"],
        "fp16",
    ),
    "one part": (["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"], "fp16"),
    "two variants": (
        ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.ema.safetensors"],
        "fp16",
    ),
    "sharded": (["text_encoder/model.bf16-00001-of-00002.safetensors"], "bf16"),
    "sharded as of old": (["unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16"),
    "sharded and plain": (["unet/diffusion_pytorch_model-00001-of-00002.safetensors"], None),
    "others": (["unet/pytorch_lora_weights.safetensors"], None),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variant_of_a_folder(name):
    files, variant = VARIANTS[name]
    assert variant_in(files) == variant


def test_a_variant_is_found_and_said(half, folder, caplog, no_network):
    pipe = efface.load(half)
    assert "fp16" in caplog.text
    assert next(pipe.unet.parameters()).dtype == torch.float32
    whole = fingerprint(efface.Model(efface.load(folder)))
    assert not fingerprint(efface.Model(pipe)).difference(whole)
    assert efface.load(half, variant="fp16").unet is not pipe.unet


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps of a process are Linux's")
def test_half_precision_is_mapped_as_it_lies_on_disk(half):
    pipe = efface.load(half, dtype="float16", device="cpu")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(half) in line]
    ranges = [tuple(int(edge, 16) for edge in line[0].split("-")) for line in maps]
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        for name, weight in part.named_parameters():
            assert weight.dtype == torch.float16
            assert any(start <= weight.data_ptr() < end for start, end in ranges), name


def test_what_is_local_never_waits_for_the_hub(folder, half, cache, tmp_path, no_network):
    cache(folder, "someone/tiny")
    assert efface.load("someone/tiny").config._name_or_path == "someone/tiny"
    for name in (folder, half, "emoji"):
        efface.load(name)
    cache(half, "someone/half")
    efface.load("someone/half")
    efface.load(unet_alone(tiny.stable_diffusion(), tmp_path / "unet.safetensors"), config=folder)


def test_a_part_of_a_repository_is_not_taken_for_all(folder, cache, tmp_path, unreachable):
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    (part / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    cache(part, "someone/part")
    with pytest.raises(efface.EffaceError, match="someone/part"):
        efface.load("someone/part")
    assert unreachable


def test_a_unet_alone_takes_the_rest_from_the_config(folder, tmp_path):
    other = tiny.stable_diffusion()
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.mul_(1.5)
    pipe = efface.load(unet_alone(other, tmp_path / "unet.safetensors"), config=folder)
    for name, tensor in other.unet.state_dict().items():
        torch.testing.assert_close(pipe.unet.state_dict()[name], tensor)
    whole = efface.load(folder)
    for name, tensor in whole.text_encoder.state_dict().items():
        assert torch.equal(pipe.text_encoder.state_dict()[name], tensor)
    assert efface.Model(pipe).draw(["a cat"], seeds=[0], steps=1)[0].size == (16, 16)


@pytest.fixture
def without_weights(folder, tmp_path):
    """A config folder, as the Hub gives it for a checkpoint: without weights."""
    path = tmp_path / "config"
    shutil.copytree(folder, path, ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def test_a_unet_alone_beside_a_config_without_weights_is_refused(without_weights, tmp_path, no_network):
    path = unet_alone(tiny.stable_diffusion(), tmp_path / "unet.safetensors")
    with pytest.raises(efface.EffaceError, match="holds no vae and no text_encoder"):
        efface.load(path, config=without_weights)


def test_without_config_the_hubs_cache_is_looked_at_first(folder, cache, tmp_path, no_network):
    cache(folder, BASE)
    efface.load(unet_alone(tiny.stable_diffusion(), tmp_path / "unet.safetensors"))


@pytest.mark.parametrize("offline", [False, True])
def test_without_config_and_internet_it_says_what_to_give(cache, tmp_path, monkeypatch, unreachable, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    path = unet_alone(tiny.stable_diffusion(), tmp_path / "unet.safetensors")
    with pytest.raises(efface.EffaceError, match="--config FOLDER") as error:
        efface.load(path)
    assert "\n" not in str(error.value)
    assert BASE in str(error.value)
    assert bool(unreachable) is not offline


def test_other_families_checkpoints_are_refused(folder, tmp_path, no_network):
    path = tmp_path / "sd3.safetensors"
    save_file({"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(efface.EffaceError, match="Stable Diffusion 1"):
        efface.load(path, config=folder)


def test_a_checkpoint_of_other_shapes_is_refused(folder, tmp_path, no_network):
    path = unet_alone(pipeline("sdxl"), tmp_path / "xl.safetensors")
    with pytest.raises(efface.EffaceError, match="do not fit"):
        efface.load(path, config=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "half"}, "dtype is 'half'"),
        ({"device": "tpu9"}, "'tpu9' is unknown"),
        ({"device": "cuda:99"}, "torch finds none"),
        ({"offload": "disk", "device": "cpu"}, "offload is 'disk'"),
        ({"config": "x/y"}, "is none"),
    ],
)
def test_bad_options_are_refused(folder, options, message):
    with pytest.raises(efface.UsageError, match=message):
        efface.load(folder, **options)


def test_the_precision_on_disk_is_taken_where_it_is_asked_for(half, folder, monkeypatch):
    monkeypatch.setattr("efface.models.load._half_precisions", lambda: (torch.float16,))
    assert efface.load(half, dtype="stored", device="cpu").unet.dtype == torch.float16
    assert efface.load(folder, dtype="stored", device="cpu").unet.dtype == torch.float32
    monkeypatch.setattr("efface.models.load._half_precisions", tuple)
    assert efface.load(half, dtype="stored", device="cpu").unet.dtype == torch.float32


def test_the_index_names_what_a_whole_folder_holds(folder, tmp_path):
    from efface.models.files import is_whole

    assert is_whole(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"extra": ["diffusers", "UNet2DConditionModel"]}))
    assert not is_whole(copy)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloaded_weights_draw_the_same_pictures(folder, offload):
    """diffusers' hooks take a processor for the device too; `load` itself refuses that, since nothing is gained."""
    from efface.models.load import _placed

    settings = {"seeds": [0, 1], "steps": 2, "guidance": 5.0}
    plain = efface.Model(efface.load(folder)).draw(["a cat", "a church"], **settings)
    moved = _placed(efface.load(folder), torch.device("cpu"), offload)
    pictures = efface.Model(moved).draw(["a cat", "a church"], **settings)
    for before, after in zip(plain, pictures, strict=True):
        assert np.abs(np.asarray(before, dtype=np.int16) - np.asarray(after, dtype=np.int16)).max() <= 1
