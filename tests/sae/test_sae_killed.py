"""Harvest and training killed (SIGKILL) at random moments end as the undisturbed run does."""

from __future__ import annotations

import json
import random

import pytest
from safetensors.torch import load_file

from killing import run_until

PREAMBLE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/support")
import tiny, torch
from efface.models.model import Model
from efface.sae.harvest import HarvestConfig
from efface.sae.stream import ActivationStream
torch.set_num_threads(1)
torch.manual_seed(0)  # the same weights in every process
model = Model(tiny.stable_diffusion())
prompts = ["a church", "a cat", "a dog in noto style", "a garbage truck"] * 6
config = HarvestConfig((tiny.SITE,), steps=6, guidance=3.0, batch=1)
print("ready", flush=True)
"""
HARVEST = """
from efface.sae.shards import harvest
for _ in harvest(model, prompts, config, Path(sys.argv[1])):
    pass
"""
TRAIN = """
from efface.sae.train import train
from efface.sae.config import SAETrainConfig
stream = ActivationStream(model, prompts, config, images=4)
train(stream, SAETrainConfig(latents=64, k=4, steps=60, batch=64), Path(sys.argv[1]), every=1, save_seconds=0.1)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("script", [HARVEST, TRAIN], ids=["harvest", "train"])
def test_killed_ten_times(script, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    length = run_until(PREAMBLE + script, whole, None)
    generator = random.Random(1)
    for _ in range(10):
        run_until(PREAMBLE + script, broken, generator.random() * length / 5)
    run_until(PREAMBLE + script, broken, None)
    files = {p.relative_to(whole) for p in whole.rglob("*") if p.is_file()}
    assert files == {
        p.relative_to(broken) for p in broken.rglob("*") if p.is_file() and not p.name.endswith(".partial")
    }
    for name in files:
        if name.suffix == ".safetensors":
            first, second = load_file(whole / name), load_file(broken / name)
            assert all((first[k] == second[k]).all() for k in first), name
    if script == TRAIN:
        curves = [[json.loads(x) for x in (f / "log.jsonl").read_text().splitlines()] for f in (whole, broken)]
        assert [(c["step"], c["sites"]) for c in curves[0]] == [(c["step"], c["sites"]) for c in curves[1]]
