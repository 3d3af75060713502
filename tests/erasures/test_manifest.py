"""The manifest of policies: a round trip, what it refuses, and the erasures of one policy together."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import efface
from alive import fresh, shoot
from alive import text_map as map_of_a_model
from efface.cli import main
from efface.erasures import Manifest, Policies, attached_to
from efface.erasures.manifest import Entry
from efface.erasures.together import Together
from small_erasure import text_map

NAMES = st.from_regex(r"[A-Za-zäß0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ENTRIES = st.builds(
    Entry,
    file=TEXTS,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    concepts=st.lists(TEXTS, max_size=3).map(tuple),
    method=TEXTS,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(NAMES, st.lists(ENTRIES, max_size=3).map(tuple), min_size=1, max_size=4))
def test_what_is_written_is_read(policies):
    with TemporaryDirectory() as folder:
        manifest = Manifest(Path(folder) / "policies.json", policies)
        manifest.write()
        found = Manifest.read(manifest.path)
        assert found.policies == policies
        assert list(found.policies) == list(policies)
        before = manifest.path.read_bytes()
        found.write()
        assert manifest.path.read_bytes() == before


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda x: st.lists(x) | st.dictionaries(TEXTS, x))
)
@example({"plain": {}})
@example({"plain": ""})
def test_foreign_json_is_refused_in_a_sentence(data):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policies.json"
        path.write_text(json.dumps({"format": 1, "policies": data}))
        if isinstance(data, dict) and not any(data.values()) and all(isinstance(held, list) for held in data.values()):
            return
        with pytest.raises(efface.EffaceError, match="is no manifest of policies"):
            Manifest.read(path)


@pytest.fixture
def manifest(tmp_path):
    """Two policies of two erasures, in a folder beside the manifest's."""
    (tmp_path / "erasures").mkdir()
    (tmp_path / "policies").mkdir()
    files = [tmp_path / "erasures" / name for name in ("church.safetensors", "dog.safetensors")]
    for seed, file in enumerate(files):
        text_map(seed).save(file)
    made = Manifest.of(tmp_path / "policies" / "policies.json", {"eu": files, "kids": files[1:], "open": []})
    made.write()
    return made


def test_it_names_files_and_holds_what_they_were(manifest):
    assert [entry.file for entry in manifest.policies["eu"]] == [
        "../erasures/church.safetensors",
        "../erasures/dog.safetensors",
    ]
    assert manifest.policies["kids"] == manifest.policies["eu"][1:]
    loaded = Manifest.read(manifest.path).load()
    assert [erasure.digest for erasure in loaded["eu"]] == [text_map(0).digest, text_map(1).digest]
    assert loaded["kids"][0] is loaded["eu"][1]
    assert loaded["open"] == []
    assert not manifest.wrong()


CHANGES = {
    "another erasure": (lambda file: text_map(7).save(file), "church.safetensors is another file"),
    "a byte more": (lambda file: file.write_bytes(file.read_bytes() + b"x"), "church.safetensors is another file"),
    "gone": (lambda file: file.unlink(), "church.safetensors is missing"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_erasure_is_refused(manifest, case, capsys):
    act, sentence = CHANGES[case]
    assert main(["policies", "check", str(manifest.path)]) == 0
    act(manifest.file(manifest.policies["eu"][0]))
    with pytest.raises(efface.EffaceError, match=sentence):
        manifest.load()
    with pytest.raises(efface.EffaceError, match=sentence):
        Policies.from_manifest(fresh(), manifest.path)
    capsys.readouterr()
    assert main(["policies", "check", str(manifest.path)]) == 1
    assert sentence in capsys.readouterr().err


DAMAGED = {
    "no JSON": ("{", "is no manifest"),
    "newer": ('{"format": 2, "policies": {}}', "reads up to 1"),
    "a policy twice": ('{"format": 1, "policies": {"eu": [], "eu": []}}', "a name stands there twice"),
    "a path for a name": ('{"format": 1, "policies": {"../eu": []}}', "is no manifest"),
    "one field more": ('{"format": 1, "policies": {}, "key": 1}', "is no manifest"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_manifests_are_refused(tmp_path, case):
    text, sentence = DAMAGED[case]
    (tmp_path / "policies.json").write_text(text)
    with pytest.raises(efface.EffaceError, match=sentence):
        Manifest.read(tmp_path / "policies.json")


def test_the_command_writes_it(manifest, tmp_path, capsys):
    church, dog = (str(manifest.file(entry)) for entry in manifest.policies["eu"])
    path = tmp_path / "made.json"
    assert main(["policies", "make", str(path), "--policy", f"eu={church},{dog}", "--policy", "open=", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(path.read_text())
    assert [entry["sha256"] for entry in printed["policies"]["eu"]] == [e.sha256 for e in manifest.policies["eu"]]
    for wrong in (["--policy", "eu"], ["--policy", "eu=", "--policy", "eu="], [], ["--policy", "e/u="]):
        assert main(["policies", "make", str(tmp_path / "not.json"), *wrong]) == 2
        assert not (tmp_path / "not.json").exists()
    assert main(["policies", "make", str(tmp_path / "not.json"), "--policy", "eu=not.safetensors"]) == 1


def test_a_policy_together_is_its_erasures_one_after_the_other(tmp_path):
    pipe = fresh()
    church, dog = map_of_a_model(), map_of_a_model("dog")
    with church.attached(pipe), dog.attached(pipe):
        expected = shoot(pipe)
    together = Together.of([church, dog])
    with together.attached(pipe):
        assert np.array_equal(shoot(pipe), expected)
    assert not attached_to(pipe)
    together.attach(pipe)
    assert np.array_equal(shoot(pipe), expected)
    together.remove(pipe)
    assert not attached_to(pipe)
    assert [concept.name for concept in together.provenance.concepts] == ["church", "dog"]
    assert Together.of([church]) is church
    assert together.digest != Together.of([dog, church]).digest
    with pytest.raises(efface.EffaceError, match="manifest of policies"):
        together.save(tmp_path / "both.safetensors")


def test_policies_of_a_manifest(tmp_path):
    pipe = fresh()
    for noun in ("church", "dog"):
        map_of_a_model(noun).save(tmp_path / f"{noun}.safetensors")
    files = {"eu": [tmp_path / "church.safetensors", tmp_path / "dog.safetensors"], "open": []}
    made = Manifest.of(tmp_path / "policies.json", files)
    made.write()
    plain = shoot(pipe)
    with Together.of([map_of_a_model(), map_of_a_model("dog")]).attached(pipe):
        expected = shoot(pipe)
    with efface.Policies.from_manifest(pipe, made.path) as policies:
        assert np.array_equal(shoot(policies, policy="eu"), expected)
        assert np.array_equal(shoot(policies, policy=["open"]), plain)
