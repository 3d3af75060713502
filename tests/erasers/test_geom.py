"""Geom-Erasing: boxes to bins, weights of places, its loss against the formula, and new tokens in the negative prompt."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import efface
import tiny
from efface.erasers import ERASERS
from efface.erasures.keyed import TextKey
from efface.erasures.negative import NegativeText
from efface.judges.base import Detection, Detector
from efface.models.model import Model
from efface.training.boxes import covered, over_cells, place_weights
from efface.training.images import draw_concept_images
from trained import begun

MARK = efface.Concept("art", anchor=None)
OPTIONS = {
    "grid": 2,
    "images": 3,
    "batch": 2,
    "draw_steps": 2,
    "iterations": 3,
    "lr": 0.5,
    "captions": ("a cat", "a dog"),
}


class Corner:
    """A detector that finds a mark in the lower right of every picture but the first, and something unsure elsewhere."""

    def detect(self, images):
        found = []
        for number, image in enumerate(images):
            w, h = image.size
            sure = [Detection("Art", 0.9, (0.6 * w, 0.6 * h, 0.3 * w, 0.3 * h))] if number else []
            found.append([*sure, Detection("art", 0.1, (0, 0, 0.1 * w, 0.1 * h))])
        return found


@pytest.fixture(scope="module")
def erasure(sd):
    return efface.erase(sd, MARK, method="geom", judge=Corner(), **OPTIONS)


@pytest.mark.parametrize(
    ("box", "bins"),
    [
        ((0, 0, 10, 10), [[1, 0], [0, 0]]),
        ((0, 0, 100, 10), [[1, 1], [0, 0]]),
        ((40, 10, 20, 20), [[1, 1], [1, 1]]),
        ((50, 25, 1, 1), [[0, 0], [0, 1]]),
        ((0, 0, 50, 25), [[1, 0], [0, 0]]),
        ((0, 0, 0, 0), [[0, 0], [0, 0]]),
    ],
)
def test_boxes_to_bins(box, bins):
    assert covered([box], (100, 50), 2).int().tolist() == bins


def test_boxes_add_up_and_none_cover_nothing():
    assert covered([(0, 0, 1, 1), (99, 49, 1, 1)], (100, 50), 2).int().tolist() == [[1, 0], [0, 1]]
    assert not covered([], (100, 50), 3).any()


@given(st.integers(1, 6), st.floats(0.1, 10), st.integers(0, 2**36 - 1))
def test_weights_add_up_to_the_bins(grid, alpha, bits):
    bins = torch.tensor([bits >> i & 1 for i in range(grid**2)], dtype=torch.bool).view(grid, grid)
    weights = place_weights(bins, alpha)
    assert float(weights.sum()) == pytest.approx(grid**2, rel=1e-5)
    if bins.any() and not bins.all():
        assert float(weights[~bins][0] / weights[bins][0]) == pytest.approx(alpha, rel=1e-5)
    assert torch.allclose(place_weights(bins, 1.0), torch.ones(grid, grid))


def test_weights_of_cells():
    cells = over_cells(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), 4, 6)
    assert cells.shape == (1, 1, 4, 6)
    assert cells[0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert float(cells.mean()) == 2.5


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_geom_is_its_formula(model, alpha, monkeypatch):
    eraser = ERASERS.load("geom")
    monkeypatch.setattr(eraser, "erase", lambda m, c, config, erase=eraser.erase: erase(m, c, config, Corner()))
    training = begun(model, "geom", [MARK], **OPTIONS | {"alpha": alpha})
    table = model.token_table().clone()
    album = draw_concept_images(model, ["a cat", "a dog"], 3, {"steps": 2, "guidance": 7.5, "side": None})
    step = next(i for i in range(9) if sorted(bool(m) for m in album.batch(2, 0, i).members) == [False, True])
    x = album.batch(2, 0, step)  # one picture with the mark and one without
    loss, (gradient,) = training.gradients(step)
    span = model.token_spans()[0]
    expected = 0.0
    for number, member in enumerate(x.members):
        caption = span.ids(("a cat", "a dog", "a cat")[member])
        ids, rows = list(caption), table[caption]
        if member:
            ids += [*span.ids("art"), 0]
            rows = torch.cat([rows, table[span.ids("art")], training.held.parameters[0][3:4].detach()])
        one = slice(number, number + 1)
        clean, noise, t = x.clean[one], x.noise[one], x.timesteps[one]
        output = model.predict(model.to_noisy(clean, noise, t), t, model.encode_tokens([ids], rows[None])).detach()
        w = torch.ones(8, 8, dtype=torch.double)
        if member:
            inside = 4 / (1 + alpha * 3)
            w = torch.full((8, 8), alpha * inside, dtype=torch.double)
            w[4:, 4:] = inside
        expected += float((w * (noise - output).double().square()).mean()) / 2
    assert loss == pytest.approx(expected, rel=1e-4)
    assert torch.equal(model.token_table(), table)
    assert gradient[3].any()
    assert not gradient[:3].any()  # bins in which nothing was found


def test_a_stopped_training_goes_on_to_the_same_bits(sd, erasure, monkeypatch):
    def stop(step):
        if step.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("efface.training.loop.tell", stop)
        begun = efface.erase(sd, MARK, method="geom", judge=Corner(), **OPTIONS, every=1)
    assert begun.provenance.notes["unfinished"] == 1
    resumed = efface.erase(sd, MARK, method="geom", judge=Corner(), **OPTIONS, every=1)
    assert torch.equal(resumed.embeddings, erasure.embeddings)
    assert not torch.equal(begun.embeddings, erasure.embeddings)


def test_the_erasure_holds_the_places_that_were_seen(model, erasure):
    assert isinstance(erasure, NegativeText)
    assert erasure.embeddings.shape == (1, model.token_table().shape[1])
    assert erasure.owner.tolist() == [0]


def test_it_is_the_negative_prompt(sd, model, erasure):
    """What a guided step makes of it is what the pipeline makes of these embeddings as the negative prompt."""
    ids, rows = erasure.phrase(model)
    before = {k: v.clone() for k, v in sd.text_encoder.state_dict().items()}

    def draw(**options):
        g = torch.Generator().manual_seed(0)
        return sd(generator=g, num_inference_steps=3, guidance_scale=5.0, output_type="np", **options).images

    def negative(text):
        start = model.token_spans()[0].ids(text)
        table = model.token_table()
        return model.encode_tokens([[*start, *ids]], torch.cat([table[start], rows])[None]).states.detach()

    plain = draw(prompt="a cat")
    for text in ("", "a dog"):
        expected = draw(prompt="a cat", negative_prompt_embeds=negative(text))
        with erasure.attached(sd):
            np.testing.assert_allclose(draw(prompt="a cat", negative_prompt=text), expected, atol=1e-5)
            assert np.abs(expected - plain).max() > 1e-4
    with erasure.attached(sd, scale=0.0):
        assert np.array_equal(draw(prompt="a cat"), plain)
    assert np.array_equal(draw(prompt="a cat"), plain)
    assert all(torch.equal(v, before[k]) for k, v in sd.text_encoder.state_dict().items())


def test_effaces_own_drawing_is_the_call(sd, model, erasure):
    with erasure.attached(sd):
        own = model.draw(["a cat", "a dog"], seeds=[3, 4], steps=2, guidance=5.0)
        g = [torch.Generator().manual_seed(s) for s in (3, 4)]
        call = sd(["a cat", "a dog"], generator=g, num_inference_steps=2, guidance_scale=5.0).images
    for a, b in zip(own, call, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_what_it_cannot_do_is_said(sd, model, erasure):
    with erasure.attached(sd):
        with pytest.warns(UserWarning, match="nothing is erased from it"):
            sd("a cat", num_inference_steps=1, guidance_scale=1.0, output_type="np")
        with pytest.raises(efface.EffaceError, match="given as embeddings"):
            sd("a cat", num_inference_steps=1, negative_prompt_embeds=7 + model.encode(["a dog"]).states)
        with pytest.warns(UserWarning, match="tokens of the negative prompt are left out"):
            sd("a cat", num_inference_steps=1, negative_prompt="a dog in noto style a dog in noto", output_type="np")
    with pytest.raises(efface.EffaceError, match="no weight does"):
        erasure.attach(sd, fold=True)
    with pytest.raises(efface.EffaceError, match="not given single embeddings"):
        ERASERS.load("geom").erase(Model(tiny.stable_diffusion_xl()), [MARK], ERASERS.load("geom").Config(), Corner())


def test_life(sd, erasure, draw, tmp_path):
    plain = draw(sd)
    erasure.save(tmp_path / "e.safetensors")
    loaded = efface.Erasure.load(tmp_path / "e.safetensors")
    assert loaded.digest == erasure.digest
    with loaded.attached(sd):
        erased = draw(sd)
        assert not any(row.problem for row in efface.check(sd).rows)
        assert np.array_equal(draw(copy.deepcopy(sd)), erased)
        with efface.erase(sd, efface.Concept("dog", anchor="cat"), method="uce", keep=[]).attached(sd):
            assert np.abs(draw(sd) - erased).max() > 1e-4
        key = TextKey(erasure.provenance, torch.ones(2, 16))
        with key.attached(sd):
            first = draw(sd)
            with loaded.attached(sd):  # the same, whichever came first
                assert np.array_equal(draw(sd), first)
        assert np.array_equal(draw(sd), erased)
    assert np.array_equal(draw(sd), plain)


def test_options_and_detectors(sd, model):
    eraser = ERASERS.load("geom")
    assert isinstance(Corner(), Detector)
    with pytest.raises(efface.UsageError, match="give a detector"):
        efface.erase(sd, MARK, method="geom", **OPTIONS)
    with pytest.raises(efface.UsageError, match="found nothing that counts"):
        eraser.erase(model, [MARK], eraser.Config(**OPTIONS, confidence=0.95), Corner())
    with pytest.raises(efface.UsageError, match="methods that change weights"):
        eraser.Config(rank=2)
    found = Corner().detect([type("Image", (), {"size": (10, 10)})] * 2)[1]
    named = [MARK, efface.Concept("dog")]
    assert [len(boxes) for boxes in eraser.boxes_of(found, named, eraser.Config())] == [1, 0]
    assert [len(boxes) for boxes in eraser.boxes_of(found, [MARK], eraser.Config(labels=("art",), confidence=0))] == [1]


@pytest.mark.parametrize(
    "tensors",
    [
        {"embeddings": torch.zeros(2, 4)},
        {"embeddings": torch.zeros(2, 4), "owner": torch.zeros(3).long()},
        {"embeddings": torch.zeros(2, 4), "owner": torch.zeros(2)},
        {"embeddings": torch.zeros(0, 4), "owner": torch.zeros(0).long()},
    ],
)
def test_files_that_are_no_negative_text_are_refused(tensors):
    with pytest.raises(efface.EffaceError, match="expected embeddings and their owner"):
        NegativeText.check(tensors, 4)
