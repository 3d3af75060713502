"""Footprints: what files of format 2 hold of a model."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import efface
import tiny
from efface.models.fingerprint import fingerprint
from efface.models.footprint import ENCODER, NUMBERS, Footprint, Touched, difference_from, footprint
from efface.models.likeness import Difference, Sketch, values_difference
from efface.models.tensors import SAMPLE, signs

NAMES = st.text(st.characters(categories=("L", "N"), include_characters="._-"), min_size=1, max_size=30)
SIZES = st.lists(st.integers(0, 1 << 20), max_size=5).map(tuple)


def sketches(numbers):
    finite = st.floats(-1e3, 1e3).map(lambda x: round(x, 4))
    lists = st.one_of(st.just(()), st.lists(finite, min_size=numbers, max_size=numbers).map(tuple))
    return st.builds(Sketch, lists, st.booleans())


FOOTPRINTS = st.builds(
    Footprint,
    family=st.text(max_size=20),
    width=st.integers(1, 1 << 16),
    tensors=st.dictionaries(NAMES, st.builds(Touched, sketches(NUMBERS), SIZES), max_size=6),
    encoders=st.dictionaries(NAMES, st.builds(Touched, sketches(ENCODER)), max_size=3),
)


@settings(max_examples=100, deadline=None)
@given(FOOTPRINTS)
def test_round_trip(made):
    again = Footprint.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert again.key == made.key
    assert json.dumps(again.to_json()) == json.dumps(made.to_json())


GOOD = {
    "family": "f", "width": 4,
    "tensors": {"unet.a": {"shape": [2, 3], "sketch": [0.5, -1, 0, 2.0]}},
    "encoders": {"text_encoder": {"sketch": [0.0] * ENCODER, "quantised": True}},
}  # fmt: skip


@pytest.mark.parametrize(("path", "value"), [
    (("family",), 7), (("width",), 0), (("width",), True), (("width",), "4"), (("tensors",), []), (("encoders",), None),
    (("tensors", "unet.a"), []), (("tensors", "unet.a", "shape"), [2, -3]), (("tensors", "unet.a", "shape"), [2.0]),
    (("tensors", "unet.a", "shape"), "23"), (("tensors", "unet.a", "sketch"), [0.5]),
    (("tensors", "unet.a", "sketch"), [0.5, 1, 2, float("nan")]), (("tensors", "unet.a", "sketch"), ["a"] * 4),
    (("tensors", "unet.a", "sketch"), None), (("encoders", "text_encoder", "sketch"), [1.0] * NUMBERS),
    (("encoders", "text_encoder", "quantised"), 1),
])  # fmt: skip
def test_what_is_no_footprint_is_refused(path, value):
    assert Footprint.from_json(GOOD).to_json() == GOOD
    bad = copy.deepcopy(GOOD)
    *owner, last = path
    place = bad
    for step in owner:
        place = place[step]
    place[last] = value
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Footprint.from_json(bad)


@pytest.mark.parametrize("missing", GOOD)
def test_what_is_incomplete_is_refused(missing):
    with pytest.raises(KeyError):
        Footprint.from_json({name: value for name, value in GOOD.items() if name != missing})


def test_the_numbers_of_a_tensor_are_signed_sums_of_its_values():
    """Against the definition: every fourth of the sampled values, in units of their root mean square."""
    pipe = tiny.stable_diffusion()
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    weight = pipe.unet.get_parameter(name.removeprefix("unet.")).detach().double().flatten()
    units = (len(weight) / 4) ** 0.5 * weight.square().mean().sqrt()
    expected = [float((signs()[: len(weight)] * weight)[i::4].sum() / units) for i in range(4)]
    touched = footprint(efface.Model(pipe)).tensors[name]
    assert touched.shape == (16, 16)
    assert touched.sketch.numbers == pytest.approx(expected, abs=5e-5)


def test_the_signs_are_the_same_for_ever():
    """They are part of the file format."""
    assert "".join("1" if sign > 0 else "0" for sign in signs()[:40]) == SIGNS
    assert len(signs()) == SAMPLE
    assert abs(float(signs().mean())) < 0.05


SIGNS = "1101111101110011111111110101101110101010"


@pytest.mark.parametrize("name", tiny.PIPELINES)
def test_a_footprint_covers_the_text_projections_and_encoders(name):
    pipe = tiny.PIPELINES[name]()
    found = footprint(efface.Model(pipe))
    model = efface.Model(pipe)
    reading = [*model.text_projections(), *model.family.pooled_projections()]
    assert set(found.tensors) == {f"{p.name}.weight" for p in reading}
    assert set(found.encoders) == set(efface.Model(pipe).family.text_encoders())
    assert difference_from(found, efface.Model(pipe)) == Difference()


def test_numbers_have_a_standard_deviation_near_one():
    """So that other weights differ by 1.4 on average, and the limits hold."""
    numbers = []
    for seed in range(4):
        found = footprint(efface.Model(tiny.stable_diffusion_xl(seed)))
        numbers += [n for touched in found.tensors.values() for n in touched.sketch.numbers]
    spread = torch.tensor(numbers).square().mean().sqrt()
    assert 0.8 < float(spread) < 1.2


def test_quantisation_is_told_from_other_weights():
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(32, 4, generator=generator)
    before = [Sketch(tuple(row.tolist())) for row in known]

    def after(noise, coarse=True):
        moved = known + noise * torch.randn(32, 4, generator=generator)
        return [Sketch(tuple(row.tolist()), coarse) for row in moved]

    assert values_difference(before, after(0.3)) == Difference()  # two bits a weight
    assert "quantisation explains" in values_difference(before, after(1.4)).text
    assert "rounding explains" in values_difference(before, after(0.3, coarse=False)).text
    unread = [Sketch(()) for _ in before]
    assert "not compared" in values_difference(before, unread).remark
    assert values_difference(before, [*before[:1], *unread[1:]]) == Difference()


def test_a_footprint_follows_every_touched_tensor(sd):
    model = efface.Model(sd)
    known = footprint(model)
    for name, touched in known.tensors.items():
        moved = tuple(n + 0.02 for n in touched.sketch.numbers)
        other = replace(known, tensors=dict(known.tensors) | {name: replace(touched, sketch=Sketch(moved))})
        assert "other weights" in difference_from(other, model).text
    for name, encoder in known.encoders.items():
        moved = tuple(n + 0.02 for n in encoder.sketch.numbers)
        other = replace(known, encoders=dict(known.encoders) | {name: replace(encoder, sketch=Sketch(moved))})
        assert "other weights" in difference_from(other, model).text


def test_a_footprint_is_of_the_unedited_model(sd):
    model, erasure = efface.Model(sd), efface.erase(sd, "church", method="uce", keep=[])
    known = footprint(model)
    whole = fingerprint(model)
    with erasure.attached(sd, fold=True):
        assert footprint(model) == known
        assert fingerprint(model) == whole
