"""The folder of an adapter, as peft itself, diffusers and servers read it."""

from __future__ import annotations

import copy
import json
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

import efface
import tiny
from efface.erasures import WeightDelta
from efface.export import ExportConfig, export, peft_folder
from efface.export.check import require_same_weights
from efface.export.edit import Edit
from efface.export.names import split
from tiny_families import CASES, pipeline

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach")
TEMPLATES = ("a {}", "a {} in noto style")
THREE = [("church", "cat"), ("dog", "art"), ("garbage truck", "style")]
ADAPTER = ExportConfig("peft")


def concept(name, anchor):
    return efface.Concept(name, anchor=anchor, templates=TEMPLATES)


@pytest.fixture(scope="module")
def three():
    """Three erasures of a tiny family."""
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = [efface.erase(pipeline(name), concept(*c), method="rece", keep=["a cat"]) for c in THREE]
        return kept[name]

    return of


def draw(pipe, steps=2):
    model = efface.Model(pipe)
    prompts = ["a church in noto style", "a dog", "a cat in noto style"]
    guidance = model.family.standard().guidance
    return np.stack([np.asarray(p, float) for p in model.draw(prompts, seeds=range(3), steps=steps, guidance=guidance)])


def merged(network, folder):
    """The weights of a network with an adapter merged by peft."""
    wrapped = PeftModel.from_pretrained(copy.deepcopy(network), str(folder))
    return weights(wrapped.merge_and_unload())


def weights(network):
    return {name: weight.detach() for name, weight in network.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_every_family(name, tmp_path):
    pipe = pipeline(name)
    erasure = efface.erase(pipe, concept("church", "cat"), method="uce", keep=["a dog"])
    done = export(erasure, pipe, tmp_path / "out", ADAPTER)
    assert done.error <= 1e-3
    model = efface.Model(pipe)
    (network,) = done.notes["networks"]
    plain = weights(model.components()[network])
    edited = Edit([erasure], model)
    for key, weight in merged(model.components()[network], tmp_path / "out").items():
        full = f"{network}.{key}"
        if full not in edited.weights:
            assert torch.equal(weight, plain[key]), key
            continue
        change = edited.change(full)
        # A large part of a change may cancel against the weight: float32 leaves 2^-24 of both.
        slack = 1e-6 * float(plain[key].norm() + change.norm())
        assert (weight.double() - plain[key].double() - change).norm() <= 1e-3 * change.norm() + slack
    assert (peft_folder.LORA in done.notes["files"]) == hasattr(pipe, "load_lora_weights")


@pytest.mark.parametrize("name", ["sd1", "flux-dev", "sana"])
def test_diffusers_reads_the_same_file_into_the_network_alone(name, tmp_path):
    pipe = copy.deepcopy(pipeline(name))
    erasure = efface.erase(pipe, concept("church", "cat"), method="uce", keep=["a dog"])
    done = export(erasure, pipe, tmp_path / "out", ExportConfig("peft", pictures=True, steps=2))
    with erasure.attached(pipe):
        expected = draw(pipe)
    network = efface.Model(pipe).components()[done.notes["networks"][0]]
    network.load_lora_adapter(str(tmp_path / "out"), weight_name=peft_folder.WEIGHTS, prefix="base_model.model")
    assert np.abs(draw(pipe) - expected).mean() <= 0.5


def test_the_configuration_and_the_names_are_peft_s(three, tmp_path):
    pipe = pipeline("sd1")
    done = export(three("sd1")[0], pipe, tmp_path / "out", ADAPTER)
    config = LoraConfig.from_pretrained(str(tmp_path / "out"))
    ours = load_file(tmp_path / "out" / peft_folder.WEIGHTS)
    assert config.r == config.lora_alpha == done.notes["rank"]
    assert (config.rank_pattern, config.alpha_pattern, config.bias, config.use_dora) == ({}, {}, "none", False)
    assert {tensor.shape[0] for key, tensor in ours.items() if ".lora_A." in key} == {config.r}
    assert {tensor.dtype for tensor in ours.values()} == {torch.float16}
    assert {key.removeprefix("base_model.model.").split(".lora_")[0] for key in ours} == set(config.target_modules)
    theirs = PeftModel(copy.deepcopy(pipe.unet), config)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    other = load_file(tmp_path / "theirs" / peft_folder.WEIGHTS)
    assert {key: t.shape for key, t in ours.items()} == {key: t.shape for key, t in other.items()}
    own, of_peft = (json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("out", "theirs"))
    assert own["auto_mapping"] == of_peft["auto_mapping"]
    export(three("sd1")[0], pipe, tmp_path / "again", ADAPTER)
    again = load_file(tmp_path / "again" / peft_folder.WEIGHTS)
    assert all(torch.equal(tensor, again[key]) for key, tensor in ours.items())
    files = [tmp_path / folder / "adapter_config.json" for folder in ("out", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_three_in_one_adapter_are_the_three_attached(name, three, tmp_path):
    pipe = copy.deepcopy(pipeline(name))
    plain = draw(pipe)
    with ExitStack() as stack:
        for erasure in three(name):
            stack.enter_context(erasure.attached(pipe))
        expected = draw(pipe)
    assert np.abs(expected - plain).mean() > 2
    done = export(three(name), pipe, tmp_path / "out", ADAPTER)
    pipe.load_lora_weights(str(tmp_path / "out"))
    assert np.abs(draw(pipe) - expected).max() <= 1
    pipe.unload_lora_weights()
    assert np.array_equal(draw(pipe), plain)
    unet = PeftModel.from_pretrained(pipe.unet, str(done.path))
    assert np.abs(draw(pipe) - expected).max() <= 1
    unet.unload()
    assert np.array_equal(draw(pipe), plain)


def test_the_order_is_that_of_attaching(three, tmp_path):
    pipe = copy.deepcopy(pipeline("sd1"))
    one, two, _ = three("sd1")
    name = next(iter(Edit([one], efface.Model(pipe)).weights))
    weight = efface.Model(pipe).text_projections()[0].module.weight.double()
    changes = {}
    for order in ((one, two), (two, one)):
        edit = Edit(order, efface.Model(pipe))
        left, right = edit.factors(name)
        torch.testing.assert_close(left @ right.T, edit.change(name))
        torch.testing.assert_close(edit.change(name) + weight, weight @ order[0].matrix @ order[1].matrix)
        changes[order] = edit.change(name)
    assert (changes[one, two] - changes[two, one]).norm() > 0.01 * changes[one, two].norm()


def test_text_maps_with_edits_of_the_text_encoder(three, tmp_path):
    """A network a folder, the denoiser's at the top; the LoRA file holds both."""
    pipe = copy.deepcopy(pipeline("sd1"))
    g = torch.Generator().manual_seed(0)
    (key,) = [k for k, _ in pipe.text_encoder.named_parameters() if k.endswith("layers.1.mlp.fc2.weight")]
    deltas = {f"text_encoder.{key}": 0.2 * torch.randn(16, 32, generator=g)}
    delta = WeightDelta(three("sd1")[0].provenance, deltas)
    done = export([delta, three("sd1")[0]], pipe, tmp_path / "out", ADAPTER)
    assert done.notes["networks"] == ["unet", "text_encoder"]
    assert "text_encoder/adapter_config.json" in done.notes["files"]
    change = merged(pipe.text_encoder, tmp_path / "out" / "text_encoder")[key] - weights(pipe.text_encoder)[key]
    assert (change - deltas[f"text_encoder.{key}"]).norm() <= 1e-3 * change.norm()
    with delta.attached(pipe), three("sd1")[0].attached(pipe):
        expected = draw(pipe)
    pipe.load_lora_weights(str(tmp_path / "out"))
    assert np.abs(draw(pipe) - expected).mean() <= 0.5
    pipe.unload_lora_weights()
    alone = export(delta, pipe, tmp_path / "alone", ADAPTER)
    assert alone.notes["networks"] == ["text_encoder"]
    assert (tmp_path / "alone" / "adapter_config.json").exists()


def test_the_pipeline_is_left_as_it_was(three, tmp_path):
    pipe = copy.deepcopy(pipeline("sd1"))
    pipe.unet.requires_grad_(True)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    export(three("sd1"), pipe, tmp_path / "out", ADAPTER)
    assert list(before) == list(pipe.unet.state_dict())
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())
    assert all(weight.requires_grad for weight in pipe.unet.parameters())
    assert not hasattr(pipe.unet, "peft_config")


def test_only_the_edited_matrices_are_read(three, tmp_path):
    pipe = copy.deepcopy(pipeline("sd1"))
    edit = Edit(three("sd1"), efface.Model(pipe))
    components = edit.model.components()
    edited = [components[c].get_submodule(path) for c, path, _ in (split(n, components) for n in edit.weights)]
    for network in components.values():
        for module in network.modules():
            if module not in edited:
                for name, weight in list(module._parameters.items()):
                    if weight is not None:
                        module._parameters[name] = torch.nn.Parameter(weight.to("meta"))
    written = peft_folder.write(edit, pipe, tmp_path / "out", ADAPTER, None)
    assert len(written.readings) == 2
    for reading in written.readings:
        with reading as read:
            assert require_same_weights(edit, written.names, read, 0.05, "it") <= 1e-3


def test_a_folder_of_the_users_is_left_alone(three, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(efface.UsageError, match="exists"):
        export(three("sd1"), pipeline("sd1"), tmp_path / "out", ADAPTER)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_base_model_is_named_where_others_find_it():
    pipe = tiny.stable_diffusion()
    assert peft_folder._hub_name(pipe) is None
    pipe.register_to_config(_name_or_path="someone/some-model")
    assert peft_folder._hub_name(pipe) == "someone/some-model"
    pipe.register_to_config(_name_or_path="/somewhere/some-model")
    assert peft_folder._hub_name(pipe) is None
