"""An exported LoRA in a process of its own that never imports efface."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import efface
import tiny
from efface.export import ExportConfig, export

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach")

PLAIN = """
import sys, numpy as np, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
folder, lora, out, steps, guidance = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(folder)
pipe.load_lora_weights(lora)
pipe.set_progress_bar_config(disable=True)
pictures = [
    pipe(prompt, generator=torch.Generator().manual_seed(3), num_inference_steps=int(steps), guidance_scale=float(guidance)).images[0]
    for prompt in ("a church in noto style", "a cat in noto style")
]
np.save(out, np.stack([np.asarray(p) for p in pictures]))
assert not any(name.split(".")[0] == "efface" for name in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji", "sdxl"])
def test_a_lora_in_a_process_that_knows_nothing_of_efface(name, tmp_path):
    pipe = efface.load("emoji") if name == "emoji" else tiny.stable_diffusion_xl()
    pipe.save_pretrained(tmp_path / "pipe")
    erasure = efface.erase(pipe, "church", method="rece", keep=["a dog"])
    export(erasure, pipe, tmp_path / "lora.safetensors", ExportConfig("lora", steps=2))
    files = [tmp_path / "pipe", tmp_path / "lora.safetensors", tmp_path / "out.npy"]
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, *files, "12", "3"]
    subprocess.run(command, check=True)
    model = efface.Model(pipe)
    with erasure.attached(pipe):
        expected = model.draw(["a church in noto style", "a cat in noto style"], seeds=[3, 3], steps=12, guidance=3.0)
    found = np.load(tmp_path / "out.npy").astype(float)
    assert np.abs(found - np.stack([np.asarray(p, float) for p in expected])).mean() < 1
