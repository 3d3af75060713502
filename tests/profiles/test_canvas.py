"""The embedded model, its judges, and the main job on them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import efface
from efface.cli import main
from efface.io import embedded
from efface.judges import embedded_judge
from efface.profiles.base import profile_of
from efface.profiles.emoji.profile import PROFILE
from efface.profiles.emoji.score import draw_and_judge, rates
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, caption

pytestmark = pytest.mark.skipif(
    not (embedded.folder("emoji") / "judges" / "judges.json").exists(), reason="the canvas is being trained"
)


@pytest.fixture(scope="module")
def emoji():
    """The embedded pipeline."""
    return efface.load("emoji")


def test_it_is_a_diffusers_pipeline_under_56_mb(emoji):
    assert type(emoji).__name__ == "StableDiffusionPipeline"
    assert profile_of(emoji) is PROFILE
    assert sum(p.stat().st_size for p in embedded.folder("emoji").rglob("*") if p.is_file()) < 56e6
    assert not [p for p in embedded.folder("emoji").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_every_word_of_the_canvas_fits_its_tokenizer(emoji):
    model = efface.Model(emoji)
    for thing in OBJECTS:
        assert model.truncated(caption(thing.name, "emojione", "night sky")) == ""


@pytest.mark.slow
def test_the_main_job(emoji):
    model = efface.Model(emoji)
    pairs = [("church", s) for s in STYLES] + [(n, STYLES[i % 9]) for i, n in enumerate(BENCHMARK) if n != "church"]
    before = rates(draw_and_judge(model, pairs, seeds=[0]), "church")
    erasure = efface.erase(emoji, "church", method="rece")
    with erasure.attached(emoji):
        after = rates(draw_and_judge(model, pairs, seeds=[0]), "church")
    assert before.erased >= 0.6
    assert after.erased <= 0.25
    assert after.others >= before.others - 0.25
    assert after.styles >= before.styles - 0.25


def test_pictures_are_the_same_from_run_to_run(emoji):
    first, second = (draw_and_judge(efface.Model(emoji), [("cat", "noto")], seeds=[1]).images[0] for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_demo(capsys, tmp_path):
    assert main(["demo", "-o", str(tmp_path / "demo"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ua"]["share"] >= 0.8
    assert data["ua"]["pictures"] >= 5
    assert data["ira_drop"]["share"] <= 0.2
    assert data["in_picture"]["share"] >= 0.5
    assert data["bytes"] == (tmp_path / "demo" / "church.safetensors").stat().st_size
    with Image.open(tmp_path / "demo" / "demo.png") as picture:
        assert picture.size[0] > 600


@pytest.mark.slow
def test_a_judge_chooses_the_epoch(emoji):
    erasure = efface.erase(emoji, "church", method="rece", judge=embedded_judge("emoji", "object"), epochs=2)
    judged = erasure.provenance.notes["judged"]
    assert 1 <= len(judged) <= 3
    assert min(judged) <= judged[0]
