"""Names of text encoders' tensors with and without `text_model.` are one name."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny
from alive import OlderTextEncoder
from efface.erasures import Provenance, WeightDelta
from efface.models.fingerprint import difference_as_made, fingerprint
from efface.models.likeness import Difference
from efface.models.spelling import one_name, spell, spelt_as

PLAIN = ["embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.bias"]
WRAPPED = [f"text_model.{name}" for name in PLAIN]


@pytest.fixture
def older():
    """A tiny pipeline whose text encoder has the names of an older transformers."""
    pipe = tiny.stable_diffusion()
    if not hasattr(pipe.text_encoder, "text_model"):
        pipe.text_encoder = OlderTextEncoder(pipe.text_encoder)
    return pipe


@pytest.mark.parametrize(("names", "now", "old"), [
    (PLAIN, PLAIN, WRAPPED),
    (WRAPPED, PLAIN, WRAPPED),
    ([*PLAIN, "text_projection.weight"], [*WRAPPED, "text_projection.weight"], [*WRAPPED, "text_projection.weight"]),
    ([*WRAPPED, "text_projection.weight"], [*WRAPPED, "text_projection.weight"], [*WRAPPED, "text_projection.weight"]),
    (["encoder.block.0.weight"], ["encoder.block.0.weight"], ["encoder.block.0.weight"]),
    (["text_model.of.another.kind"], ["text_model.of.another.kind"], ["text_model.of.another.kind"]),
])  # fmt: skip
def test_spellings(names, now, old):
    assert spell(names) == now
    assert spell(names, old=True) == old


def test_one_name():
    assert one_name("text_encoder_2.text_model.encoder.weight") == "text_encoder_2.encoder.weight"
    assert one_name("unet.text_model.weight") == "unet.text_model.weight"
    known = ["text_encoder.text_model.a", "unet.b"]
    assert spelt_as(["text_encoder.a", "unet.b", "unet.c"], known) == {
        "text_encoder.a": "text_encoder.text_model.a", "unet.b": "unet.b", "unet.c": "unet.c",
    }  # fmt: skip


def test_the_fingerprint_is_that_of_either_spelling(sd, older):
    assert fingerprint(efface.Model(older)) == fingerprint(efface.Model(sd))


def test_an_erasure_with_the_older_names_attaches(sd, older):
    known = fingerprint(efface.Model(sd), old=True)
    assert known.structure != fingerprint(efface.Model(sd)).structure
    for pipe in (sd, older):
        assert difference_as_made(known, efface.Model(pipe)) == Difference()
        made = efface.erase(pipe, "church", method="uce", keep=[])
        made.provenance.__dict__["base"] = known
        with made.attached(pipe):
            pass


def test_a_change_of_a_text_encoder_finds_its_weight_under_either_name(sd, older):
    name = "text_encoder.encoder.layers.0.mlp.fc1.weight"
    shape = sd.text_encoder.state_dict()[name.removeprefix("text_encoder.")].shape
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for written in (name, name.replace("text_encoder.", "text_encoder.text_model.")):
        origin = Provenance("uce", {}, (efface.Concept("church"),), fingerprint(efface.Model(sd)))
        delta = WeightDelta(origin, {written: values})
        for pipe in (sd, older):
            inner = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
            weight = inner.encoder.layers[0].mlp.fc1.weight
            before = weight.detach().clone()
            with delta.attached(pipe):
                torch.testing.assert_close(weight.detach(), before + values)
            assert torch.equal(weight, before)
