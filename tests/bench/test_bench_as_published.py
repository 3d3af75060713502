"""UnlearnCanvas as its authors and SAeUron's counted: each difference a row, against the values of their codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efface.bench import published
from efface.bench.on_jpeg import JpegFeatures, JpegJudge
from efface.bench.protocols.base import NamedErasure, Observations
from efface.bench.protocols.unlearncanvas import Plan, UnlearnCanvas, style_of
from efface.errors import UsageError
from efface.io.images import through_jpeg
from efface.judges.labels import UNLEARNCANVAS_OBJECTS
from protocol_runs import CANVAS_PLAN, drawn, ran
from tiny_judges import Blocks, Hues, hue

STYLES = tuple(style for style in Plan().styles if style != "Seed_Images")


def picture(side=40):
    """A picture that JPEG changes."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8))


def test_a_judge_sees_what_a_file_of_quality_75_holds(tmp_path):
    """Pillow's own default, with which the public codes save their pictures."""
    picture().save(tmp_path / "p.jpg")
    with Image.open(tmp_path / "p.jpg") as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(np.asarray(through_jpeg(picture(), 75)), expected)
    assert not np.array_equal(np.asarray(through_jpeg(picture(), 90)), expected)
    judge = JpegJudge(Hues(*map(str, range(50))), 75)
    assert judge([picture()]).labels == (str(hue(expected, 50)),)
    assert judge.name == "hues-1 classes=50 jpeg=75"
    features = JpegFeatures(Blocks(), 75)
    assert torch.equal(features([picture()]), Blocks()([Image.fromarray(expected)]))
    assert features.name == f"{Blocks().name} jpeg=75"


def test_a_run_is_judged_through_jpeg(model, home, tmp_path, data):
    styles, objects = Hues("Rust", "Sketch", "Van_Gogh", "Crayon", "Seed_Images"), Hues("Cats", "Dogs")
    protocol = UnlearnCanvas(styles, objects, CANVAS_PLAN, extract=Blocks(), data=data, jpeg=75)
    run = ran(model, protocol, [home / "Dogs.safetensors"], tmp_path / "run")
    unerased = run.rows()[0]
    seen = [through_jpeg(picture, 75) for picture in drawn(model, protocol.samples)]
    right = [objects.classes[hue(p, 2)] == s.concept for p, s in zip(seen, protocol.samples, strict=True)]
    assert unerased.cells["object"].value == pytest.approx(np.mean(right))
    assert all("jpeg=75" in name for name in run.setting.judges)
    assert protocol.real_observers()["features"].name == Blocks().name  # the data set's files are JPEG already


def entries_of(samples, shown):
    """What two judges that are always sure say, who see the object where `shown` says so and every style."""
    found = []
    for sample in samples:
        thing = sample.concept if shown(sample) else "Birds" if sample.concept != "Birds" else "Bears"
        labels = {"object": thing, "style": style_of(sample) or "Rust"}
        found.append({name: {"label": label, "score": 1.0, "intact": True} for name, label in labels.items()})
    return found


def erasing(name):
    """An erasure of that object."""
    return NamedErasure(name=name, path=Path(name), sha256=name, provenance=None, concepts=(name,))


def cells_of(gone, **options):
    """The cells of an erased object where only pictures for which `gone` is false show theirs."""
    protocol = UnlearnCanvas(plan=Plan("saeuron"), **options)
    before = entries_of(protocol.samples, lambda sample: True)
    after = entries_of(protocol.samples, lambda sample: not gone(sample))
    return protocol.cells(Observations(erasure=erasing("Dogs"), before=before, after=after, real=[]))


WEIGHTED = {
    # gone -> UA by the weighting before October 2025 and by today's, of 250 styled and 5 unstyled pictures of dogs
    "styled": (lambda s: s.concept == "Dogs" and style_of(s) != "", 50.00, 98.04),
    "unstyled": (lambda s: s.concept == "Dogs" and style_of(s) == "", 50.00, 1.96),
    "all": (lambda s: s.concept == "Dogs", 100.0, 100.0),
    "one style": (lambda s: s.concept == "Dogs" and style_of(s) == "Rust", 1.0, 1.96),
}


@pytest.mark.parametrize("case", WEIGHTED)
def test_unlearning_accuracy_of_saeurons_objects(case):
    gone, old, today = WEIGHTED[case]
    assert round(100 * cells_of(gone, repeat_unstyled=True)["UA"].value, 2) == old
    assert round(100 * cells_of(gone)["UA"].value, 2) == today


def test_retain_accuracy_of_saeurons_objects():
    """All of the unstyled cats lost: a nineteenth of half of the weight, or of 5 in 255."""
    cells = [cells_of(lambda s: s.concept == "Cats" and not style_of(s), repeat_unstyled=old) for old in (True, False)]
    assert cells[0]["IRA"].value == pytest.approx(1 - 0.5 / 19)
    assert cells[1]["IRA"].value == pytest.approx(1 - 5 / 255 / 19)
    assert cells[0]["CRA"] == cells[1]["CRA"]
    assert cells[0]["IRA drop"] == cells[1]["IRA drop"]


def test_styles_are_counted_alike():
    """Their rates have no unstyled pictures."""
    erasure = erasing("Rust")
    found = []
    for old in (True, False):
        protocol = UnlearnCanvas(plan=Plan("saeuron", styles=(*STYLES[:3], "Rust")), repeat_unstyled=old)
        entries = entries_of(protocol.samples, lambda sample: sample.seed != 188)
        found.append(protocol.cells(Observations(erasure=erasure, before=entries, after=entries, real=[])))
    assert found[0] == found[1]


REFUSED = {
    "no unstyled pictures": ({"plan": Plan(), "repeat_unstyled": True}, "no unstyled pictures to repeat"),
    "no quality": ({"jpeg": 0}, "expected 1 to 100"),
    "too much quality": ({"jpeg": 101}, "expected 1 to 100"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case):
    options, sentence = REFUSED[case]
    with pytest.raises(UsageError, match=sentence):
        UnlearnCanvas(**options)


def test_every_picture_has_its_own_generator(model):
    """Unlike SAeUron's code, which draws the pictures of a seed in a row: what was drawn before does not matter."""
    alone, *_, last = UnlearnCanvas(plan=Plan("saeuron", STYLES[:1], UNLEARNCANVAS_OBJECTS[:3], (188,))).samples
    both = drawn(model, [alone, last])
    assert np.array_equal(np.asarray(drawn(model, [last])[0]), np.asarray(both[1]))


PUBLISHED = {"style": (95.80, 99.10, 99.40), "thing": (78.82, 95.47, 95.58)}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_saeurons_own_row(kind):
    (row,) = [row for row in published.ROWS if row.wording == "saeuron"]
    assert getattr(row, kind) == PUBLISHED[kind]


def test_saeurons_objects_measured_by_others_stand_beside_its_own():
    assert published.SAEURON_OBJECTS_MEASURED_AGAIN == (87.2, 85.6, 74.1)
    own = [row for row in published.ROWS if row.wording == "saeuron"]
    assert "UA 87.2, IRA 85.6, CRA 74.1" in published.remark(own)
    assert "second-hand" in published.remark(own)
    assert published.remark([row for row in published.ROWS if row.wording == "official"]) == ""
