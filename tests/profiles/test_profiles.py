"""What is known of a model beyond its weights: recognised by its own metadata or its weights, never by its place."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

import efface
import tiny
from efface.concepts.words import as_read
from efface.errors import EffaceError
from efface.export import ExportConfig, export
from efface.io import embedded
from efface.models.fingerprint import fingerprint, structure_of
from efface.models.metadata import embedded_metadata, metadata_in, metadata_of, write_metadata
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.profiles.base import Profile, profile_named, profile_of
from efface.profiles.emoji.concepts import object_concept, style_concept
from efface.profiles.emoji.profile import PROFILE
from efface.profiles.emoji.words import BENCHMARK, object_class


@pytest.fixture(scope="module")
def emoji():
    """The embedded pipeline."""
    return efface.load("emoji")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the embedded model."""
    place = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(embedded.folder("emoji"), place, ignore=shutil.ignore_patterns("judges", "sae"))
    return place


def test_the_file_says_what_the_weights_are(emoji):
    known = embedded_metadata("emoji")
    assert not known.fingerprint.difference(fingerprint(Model(emoji)))
    assert known.fingerprint.structure == structure_of(Model(emoji).components())
    assert sampling(emoji, None, None) == {"steps": known.steps, "guidance": known.guidance}


def test_a_copy_is_known_by_its_file(folder):
    pipe = efface.load(folder)
    assert profile_of(pipe) is PROFILE
    assert sampling(pipe, None, None)["steps"] == 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_copy_without_its_file_is_known_by_its_weights(emoji, tmp_path, dtype):
    emoji.save_pretrained(tmp_path / "saved")
    pipe = efface.load(tmp_path / "saved", dtype=dtype)
    assert metadata_in(tmp_path / "saved") is None
    assert profile_of(pipe) is PROFILE
    assert efface.erase(pipe, "church", method="uce", keep=[]).provenance.concepts[0].templates[0] == "a {}"


def test_other_weights_of_the_same_shapes_are_another_model(folder, tmp_path):
    pipe = efface.load(folder)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(torch.linspace(0.5, 1.5, parameter.numel()).view(parameter.shape))
    pipe.save_pretrained(tmp_path / "other")
    other = efface.load(tmp_path / "other")
    assert metadata_of(other) is None
    assert type(profile_of(other)) is Profile


def test_an_exported_folder_is_known_for_what_it_was_made_of(emoji, tmp_path):
    erasure = efface.erase(emoji, "church", method="uce")
    export(erasure, emoji, tmp_path / "out", ExportConfig(to="diffusers", steps=2))
    data = json.loads((tmp_path / "out" / "efface.json").read_text())
    assert (data["name"], data["method"]) == ("emoji", "uce")
    assert profile_of(efface.load(tmp_path / "out")) is PROFILE


def test_a_file_for_an_earlier_model_of_the_name_says_so(emoji, sd):
    made = efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=[])
    notes = made.provenance.notes | {"decisions": {"model": "emoji"}}
    earlier = dataclasses.replace(made, provenance=dataclasses.replace(made.provenance, notes=notes))
    with pytest.raises(EffaceError, match="made for an earlier model of the name 'emoji'"):
        earlier.attach(emoji)
    with pytest.raises(EffaceError, match="made for another model"):
        made.attach(emoji)


def test_any_other_model_has_the_default_profile(sd):
    profile = profile_of(sd)
    assert type(profile) is type(profile_named("no such model")) is Profile
    assert [c.name for c in profile.concepts("church")] == ["church"]
    assert profile.settings("rece", efface.Concept("church")) == {}
    assert profile.judge(efface.Concept("church")) is None
    assert profile.retained_rate(Model(sd), None, efface.Concept("church")) is None  # pyright: ignore
    assert sampling(sd, None, None) == {"steps": 50, "guidance": 7.5}
    for refused in (profile.prompts, lambda: profile.labelled(1)):
        with pytest.raises(efface.UsageError, match="of its own"):
            refused()


@pytest.mark.parametrize(
    "text", ["{", '{"name": "emoji"}', '{"name": "emoji", "steps": 0, "guidance": 3, "dtype": "float32"}']
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "efface.json").write_text(text)
    with pytest.raises(EffaceError, match="is damaged"):
        metadata_in(tmp_path)


def test_a_file_of_something_else_says_nothing(tmp_path):
    assert metadata_in(tmp_path) is None
    for text in ("[]", '{"method": "uce"}'):
        (tmp_path / "efface.json").write_text(text)
        assert metadata_in(tmp_path) is None


def test_a_second_model_is_a_folder_of_data(sd, tmp_path, monkeypatch):
    """Its name loads it, its metadata give its sampling; nothing else had to be told of it."""
    sd.save_pretrained(tmp_path / "second")
    said = write_metadata(tmp_path / "second", sd, name="second", steps=3, guidance=2.0)
    assert metadata_in(tmp_path / "second") == said
    monkeypatch.setattr(embedded, "ROOT", tmp_path)
    embedded.names.cache_clear()
    try:
        pipe = efface.load("second")
        assert sampling(pipe, None, None) == {"steps": 3, "guidance": 2.0}
        assert metadata_of(pipe).name == "second"  # pyright: ignore
        again = tiny.PIPELINES["sd1"]()
        again.unet.load_state_dict(pipe.unet.state_dict())
        again.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
        assert metadata_of(again).name == "second"  # pyright: ignore
    finally:
        embedded.names.cache_clear()


def test_other_words_of_the_canvas_were_held_out():
    for name in BENCHMARK:
        concept = object_concept(name)
        words = PROFILE.other_words(concept)
        assert words.synonyms == object_class(name).heldout_synonyms
        assert words.descriptions == object_class(name).heldout_descriptions
        assert len(words.languages) >= 15, name
        assert len(words.companions) >= 6
        assert object_class(name).kind not in {object_class(other).kind for other in words.companions}
        told = {as_read(text) for text in (name, *concept.aliases)}
        assert not told & {as_read(text) for text in (*words.synonyms, *words.descriptions, *words.companions)}
    assert PROFILE.other_words(style_concept("noto")) == Profile().other_words(style_concept("noto"))
