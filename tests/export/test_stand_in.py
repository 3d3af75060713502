"""LoRAs of models of which nothing was read but text encoders and the matrices that read text."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import efface
import tiny
from efface.export import ExportConfig, export, peft_folder

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach")


@pytest.mark.parametrize("options", [{"to": "peft"}, {"to": "lora"}, {"to": "lora", "keys": "kohya"}])
@pytest.mark.parametrize("build", [tiny.stable_diffusion, tiny.stable_diffusion_xl], ids=["sd1", "sdxl"])
def test_the_files_are_those_of_the_whole_model(build, options, tmp_path):
    build().save_pretrained(tmp_path / "pipe")
    whole, text = efface.load(tmp_path / "pipe"), efface.load(tmp_path / "pipe", text_only=True)
    assert text.vae is None
    erasure = efface.erase(whole, efface.Concept("church", anchor="cat"), method="rece", keep=["a dog"])
    config = ExportConfig(**options)
    paths = []
    for number, pipe in enumerate((whole, text)):
        paths.append(tmp_path / f"{number}.safetensors")
        assert export(erasure, pipe, paths[-1], config).error <= 1e-3
    assert all(weight.is_meta for weight in text.unet.parameters())
    if options["to"] == "peft":
        paths = [path / peft_folder.WEIGHTS for path in paths]
    one, other = map(load_file, paths)
    assert set(one) == set(other)
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
