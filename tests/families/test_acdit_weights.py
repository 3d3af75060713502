"""The committed transformer of `recipes/acdit`: of the size that it is said to have, and it draws what it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import efface
from efface.concepts.sample import SEEDS
from efface.families.acdit_pipeline import ACDiTPipeline
from efface.io import embedded
from efface.judges import embedded_judge
from efface.judges.criterion import verdicts_on
from efface.models.metadata import metadata_of, write_metadata
from efface.profiles.emoji.concepts import object_concept
from efface.profiles.emoji.settings import SETTINGS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
from tiny_families import quiet

pytestmark = pytest.mark.slow
WEIGHTS = Path(__file__).parents[2] / "recipes" / "acdit" / "weights"
STEPS, GUIDANCE = 12, 3.0
SETTING = {"steps": STEPS, "guidance": GUIDANCE}


@pytest.fixture(scope="module")
def pipe():
    return quiet(ACDiTPipeline.with_parts_of(embedded.folder("emoji"), WEIGHTS))


def shown(pipe, pairs, first=SEEDS.audit):
    images = efface.Model(pipe).draw([caption(*p) for p in pairs], seeds=range(first, first + len(pairs)), **SETTING)
    return [v.shown for v in verdicts_on(embedded_judge("emoji", "object"), images, [name for name, _ in pairs])]


def test_weights_are_half_precision_and_small():
    (file,) = WEIGHTS.glob("*.safetensors")
    assert file.stat().st_size < 10e6
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_it_draws_most_objects(pipe):
    pairs = [(name, STYLES[i % len(STYLES)]) for i, name in enumerate(BENCHMARK)]
    assert sum(shown(pipe, pairs)) >= 10  # three standard deviations below 78.9% of 20


def test_uce_erases_and_keeps(pipe):
    church = [("church", style) for style in STYLES[:4]]
    others = [(name, STYLES[i]) for i, name in enumerate(("cat", "guitar", "car", "rose"))]
    before = sum(shown(pipe, others))
    erasure = efface.erase(pipe, object_concept("church"), method="uce", **SETTINGS["uce"]["object"])
    with erasure.attached(pipe):
        assert sum(shown(pipe, church)) == 0
        assert sum(shown(pipe, others)) >= before - 1


def test_a_folder_of_it_is_known(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    write_metadata(tmp_path, pipe, name="acdit", steps=STEPS, guidance=GUIDANCE)
    loaded = efface.load(tmp_path, device="cpu")
    assert metadata_of(loaded).steps == STEPS
    ours, theirs = (efface.Model(p).draw(["a cat in noto style"], seeds=[1], **SETTING)[0] for p in (pipe, loaded))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
