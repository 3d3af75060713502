"""Readers of erasures, autoencoders and statistics against damaged and hostile files."""

from __future__ import annotations

import json
import os
import resource
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corpus
from efface import EffaceError, Erasure
from efface.io.tensor_file import open_tensors, serialize
from efface.sae.files import load_sae, save_sae
from efface.sae.lookup import sae_folder
from efface.sae.statistics import Statistics


def test_a_few_hundred_damaged_files():
    found = corpus.run(600, seed=1)
    assert found.refused + found.untouched + found.plausible == found.tried
    assert found.refused > 0.9 * found.tried


@pytest.mark.slow
def test_twenty_thousand_damaged_files():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = corpus.run(20_000)
    assert found.refused + found.untouched + found.plausible == found.tried
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grew < 300, f"reading grew memory by {grew:.0f} MB"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for files."""
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused(place, data):
    path = place / "any.safetensors"
    path.write_bytes(data)
    for read in (Erasure.load, Statistics.load):
        with pytest.raises(EffaceError):
            read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.text(max_size=8), JSON, max_size=3), body=st.binary(max_size=64))
def test_any_header_is_refused(place, header, body):
    text = json.dumps(header).encode()
    path = place / "header.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    for read in (Erasure.load, Statistics.load):
        with pytest.raises(EffaceError):
            read(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=JSON)
def test_any_configuration_is_refused(place, config):
    folder = place / "coder"
    if not folder.exists():
        save_sae(corpus._coder(), folder)
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(EffaceError):
        load_sae(folder)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.from_regex(r"[a-z.|]{1,12}", fullmatch=True), min_size=1, max_size=4, unique=True),
    shape=st.lists(st.integers(0, 4), max_size=3),
    text=st.text(max_size=30),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]),
)
def test_what_is_sealed_comes_back(place, names, shape, text, dtype):
    tensors = {name: torch.ones(shape, dtype=dtype) * i for i, name in enumerate(names)}
    (place / "round.safetensors").write_bytes(serialize(tensors, {"said": text}, beside=b"beside"))
    found = open_tensors(place / "round.safetensors", "a test", beside=b"beside")
    assert found.has_checksum
    assert found.metadata == {"said": text}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(EffaceError, match="altered"):
        open_tensors(place / "round.safetensors", "a test", beside=b"besides")


def test_nothing_is_waited_for(tmp_path):
    """A pipe has no end; it is not read."""
    os.mkfifo(tmp_path / "e.safetensors")
    for read in (Erasure.load, Statistics.load):
        with pytest.raises(EffaceError, match="no regular file"):
            read(tmp_path / "e.safetensors")
    save_sae(corpus._coder(), tmp_path / "coder")
    (tmp_path / "coder" / "cfg.json").unlink()
    os.mkfifo(tmp_path / "coder" / "cfg.json")
    with pytest.raises(EffaceError, match="could not be read"):
        load_sae(tmp_path / "coder")


def test_a_length_of_a_terabyte_is_not_believed(tmp_path):
    """A sparse file takes no room on a disk and all of the memory."""
    path = tmp_path / "e.safetensors"
    corpus.SUBJECTS[0].make(tmp_path)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(EffaceError, match="altered or damaged"):
        Erasure.load(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    import zipfile

    (tmp_path / "config.json").write_text('{"k": 3}')
    with zipfile.ZipFile(tmp_path / "state_dict.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(EffaceError, match="was not read"):
        load_sae(tmp_path)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    (tmp_path / "config.json").write_text('{"k": 3}')
    for write in (lambda path: torch.save(Bomb(), path), lambda path: path.write_bytes(pickle.dumps(Bomb()))):
        write(tmp_path / "state_dict.pth")
        with pytest.raises(EffaceError, match="was not read"):
            load_sae(tmp_path)
        (tmp_path / "e.safetensors").write_bytes((tmp_path / "state_dict.pth").read_bytes())
        with pytest.raises(EffaceError, match="pickle"):
            Erasure.load(tmp_path / "e.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("site", ["../secret", "/etc", "a/b", "..", ""])
def test_sites_are_names_and_no_paths(site):
    with pytest.raises(EffaceError, match="no name of a module"):
        sae_folder("somewhere", site)


def test_a_configuration_that_asks_for_all_memory(tmp_path):
    save_sae(corpus._coder(), tmp_path)
    data = json.loads((tmp_path / "cfg.json").read_text()) | {"num_latents": 1 << 30}
    weights = {name: tensor for name, tensor in corpus._coder().state_dict().items() if name != "threshold"}
    text = json.dumps(data).encode()
    (tmp_path / "cfg.json").write_bytes(text)
    (tmp_path / "sae.safetensors").write_bytes(serialize(weights, {}, beside=text))
    with pytest.raises(EffaceError, match="its configuration says"):
        load_sae(tmp_path)
