"""What the tests of protocols start from: a tiny pipeline, erasures, pictures and judges on disk."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import efface
import tiny
import tiny_judges
from efface.bench.prompt_files import read_prompts
from efface.models.model import Model
from protocol_runs import CANVAS_PLAN


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny pipeline that reads whole prompts, and erasures, on disk."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LENGTH", 48)
        pipe = tiny.stable_diffusion()
    pipe.save_pretrained(folder / "model")
    for name in ("church", "dog", "Van Gogh", "Dogs"):
        concept = efface.Concept(name, "style" if name == "Van Gogh" else "object", anchor="cat")
        efface.erase(pipe, concept, method="uce", keep=["a truck"]).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(home):
    """The pipeline."""
    return Model(efface.load(home / "model"))


@pytest.fixture
def file(tmp_path):
    """Writes a file of prompts and reads it."""

    def write(text: str, name: str = "prompts.csv"):
        (tmp_path / name).write_text(text)
        return read_prompts(tmp_path / name)

    return write


@pytest.fixture
def real(tmp_path):
    """Real pictures of the captions, and one more."""
    folder, random = tmp_path / "val2014", np.random.default_rng(0)
    folder.mkdir()
    for number in range(100, 109):
        array = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"COCO_val2014_{number:012}.png")
    return folder


@pytest.fixture
def data(tmp_path):
    """A copy of a part of the data set."""
    random = np.random.default_rng(1)
    for style in CANVAS_PLAN.styles:
        for thing in CANVAS_PLAN.objects:
            folder = tmp_path / "data" / style / thing
            folder.mkdir(parents=True)
            for index in (1, 2, 3):
                array = random.integers(0, 256, (18, 18, 3), dtype=np.uint8)
                Image.fromarray(array).save(folder / f"{index}.jpg")
    return tmp_path / "data"


@pytest.fixture
def judges(tmp_path):
    """Folders of tiny judges."""
    return {
        "clip": tiny_judges.clip(tmp_path / "clip"),
        "classifier": tiny_judges.classifier(tmp_path / "resnet", ("church", "dog", "tench")),
    }
