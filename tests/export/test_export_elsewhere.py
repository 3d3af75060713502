"""Exports in a process of its own in which efface cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest

import efface
import tiny
from efface.export import ExportConfig, export

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach")

PROMPTS = ("a church in noto style", "a cat in noto style", "a dog")
PLAIN = """
import sys
sys.modules["efface"] = None  # whoever imports it fails
import numpy as np, torch
from diffusers import DiffusionPipeline
from peft import PeftModel
torch.set_num_threads(1)
folder, adapter, out, steps, loaders, *prompts = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
def draw(prompt):
    seed = torch.Generator().manual_seed(3)
    return np.asarray(pipe(prompt, generator=seed, num_inference_steps=int(steps), guidance_scale=3.0).images[0])
found = []
for loader in loaders.split():
    if loader == "load_lora_weights":
        pipe.load_lora_weights(adapter)
    elif loader == "load_lora_adapter":
        pipe.unet.load_lora_adapter(adapter, weight_name="adapter_model.safetensors", prefix="base_model.model")
    else:
        pipe.unet = PeftModel.from_pretrained(pipe.unet, adapter)
    found.append([draw(prompt) for prompt in prompts])
    if loader != "PeftModel":
        pipe.unload_lora_weights()
np.save(out, np.array(found))
"""
LOADERS = ("load_lora_weights", "load_lora_adapter", "PeftModel")
"""Of diffusers' pipelines, of its networks, and of peft."""


def elsewhere(tmp_path, adapter, steps, loaders=LOADERS):
    """Pictures of PROMPTS (loaders prompts height width 3), drawn by the pipeline in tmp_path in another process."""
    files = [str(tmp_path / "pipe"), str(adapter), str(tmp_path / "out.npy")]
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, *files, str(steps), " ".join(loaders), *PROMPTS]
    subprocess.run(command, check=True)
    return np.load(tmp_path / "out.npy").astype(float)


def attached(pipe, erasures, steps):
    with ExitStack() as stack:
        for erasure in erasures:
            stack.enter_context(erasure.attached(pipe))
        pictures = efface.Model(pipe).draw(PROMPTS, seeds=[3] * len(PROMPTS), steps=steps, guidance=3.0)
    return np.stack([np.asarray(p, float) for p in pictures])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji", "sdxl"])
def test_a_lora_in_a_process_that_knows_nothing_of_efface(name, tmp_path):
    pipe = efface.load("emoji") if name == "emoji" else tiny.stable_diffusion_xl()
    pipe.save_pretrained(tmp_path / "pipe")
    erasure = efface.erase(pipe, "church", method="rece", keep=["a dog"])
    export(erasure, pipe, tmp_path / "lora.safetensors", ExportConfig("lora", error=1e-4))
    found = elsewhere(tmp_path, tmp_path / "lora.safetensors", steps=12, loaders=LOADERS[:1])
    assert np.abs(found - attached(pipe, [erasure], steps=12)).mean() < 1


def test_three_erasures_in_one_adapter(tmp_path):
    """Every value of every picture is within one level of what the three attached draw, whoever loads the adapter."""
    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path / "pipe")
    concepts = [efface.Concept(n, anchor=a, templates=("a {}",)) for n, a in (("church", "cat"), ("dog", "art"))]
    erasures = [efface.erase(pipe, concept, method="uce", keep=["a truck"]) for concept in concepts]
    erasures.append(efface.erase(pipe, efface.Concept("style", anchor="a"), method="rece", keep=["a truck"]))
    export(erasures, pipe, tmp_path / "adapter", ExportConfig("peft"))
    found = elsewhere(tmp_path, tmp_path / "adapter", steps=4)
    expected = attached(pipe, erasures, steps=4)
    for loader, pictures in zip(LOADERS, found, strict=True):
        assert np.abs(pictures - expected).max() <= 1, loader
    assert np.abs(attached(pipe, [], steps=4) - expected).mean() > 2


@pytest.mark.slow
def test_three_erasures_of_a_trained_model_in_one_adapter(tmp_path):
    pipe = efface.load("emoji")
    pipe.save_pretrained(tmp_path / "pipe")
    erasures = [efface.erase(pipe, name, method="uce") for name in ("church", "cat", "rose")]
    export(erasures, pipe, tmp_path / "adapter", ExportConfig("peft"))
    found = elsewhere(tmp_path, tmp_path / "adapter", steps=12)
    expected = attached(pipe, erasures, steps=12)
    for loader, pictures in zip(LOADERS, found, strict=True):
        assert np.abs(pictures - expected).max() <= 1, loader
