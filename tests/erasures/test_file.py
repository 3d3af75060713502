"""The file of an erasure: everything that is not exactly what was saved is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import signal
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import efface
from efface.erasures import Provenance, TextMap, WeightDelta
from efface.erasures import file as files
from efface.erasures.summary import summary_in
from efface.io.tensor_file import open_tensors, serialize
from small_erasure import ORIGIN, WIDTH, text_map


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small erasure file and its bytes."""
    path = tmp_path_factory.mktemp("erasure") / "e.safetensors"
    text_map().save(path)
    return path, path.read_bytes()


def refusal(path, data: bytes) -> str:
    """The one sentence with which `data` is refused."""
    path = path.with_name("changed.safetensors")
    path.write_bytes(data)
    with pytest.raises(efface.EffaceError) as error:
        efface.Erasure.load(path)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_refused(saved, data):
    path, content = saved
    at = data.draw(st.integers(0, len(content) * 8 - 1))
    flipped = bytearray(content)
    flipped[at // 8] ^= 1 << at % 8
    assert refusal(path, bytes(flipped))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_truncation_is_refused(saved, data):
    path, content = saved
    assert refusal(path, content[: data.draw(st.integers(0, len(content) - 1))])


def test_what_else_is_refused(saved, tmp_path):
    path, content = saved
    assert "pickle" in refusal(path, pickle.dumps({"u": [1.0]}, protocol=2))
    assert "pickle" in refusal(path, pickle.dumps({"u": [1.0]}, protocol=5))
    torch.save({"u": torch.zeros(2)}, tmp_path / "p.pt")
    assert zipfile.is_zipfile(tmp_path / "p.pt")
    assert "pickle" in refusal(path, (tmp_path / "p.pt").read_bytes())
    save_file({"u": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "no erasure" in refusal(path, (tmp_path / "other.safetensors").read_bytes())
    assert "altered" in refusal(path, content + b"more")
    with pytest.raises(efface.EffaceError, match="could not be read"):
        efface.Erasure.load(tmp_path / "missing.safetensors")
    with pytest.raises(efface.EffaceError, match="could not be read"):
        efface.Erasure.load(tmp_path)


READERS = [efface.Erasure.load, summary_in]
"""With torch and without."""


def written(path, **header):
    """A file whose header says more or something else."""
    files.write(path, {"kind": "textmap"} | ORIGIN.to_json() | header, text_map().tensors())
    return path


@pytest.mark.parametrize("read", READERS)
def test_a_later_format_is_refused(tmp_path, read):
    path = written(tmp_path / "e.safetensors", format=3)
    with pytest.raises(efface.EffaceError, match="format 3, this efface reads up to 2: update efface"):
        read(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("header", "told"), [
    ({}, r"hologram' \(file format 2\); this efface knows textmap.*install the plugin that knows it, or a newer efface"),
    ({"plugin": "holo 1.0"}, r"install the plugin that knows it \(holo 1\.0\)"),
    ({"requires": ["efface>=9"]}, r"hologram' that requires 'efface>=9', and \S+ is installed: update it"),
])  # fmt: skip
def test_an_unknown_kind_says_what_to_do(tmp_path, read, header, told):
    path = written(tmp_path / "e.safetensors", kind="hologram", **header)
    with pytest.raises(efface.EffaceError, match=told) as refused:
        read(path)
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("requires", "told"), [
    (["efface-of-nobody>=1"], "'efface-of-nobody>=1', which is not installed: install it if you trust it"),
    (["torch>=2,<2.1"], "and .* is installed: update it"),
    (["a b c"], "no name with a version"),
    (["x" * 500], "no name with a version"),
    ([7], "no name with a version"),
    (["torch @ https://example.com/torch.whl"], "more than a name with a version"),
    (["torch[all]"], "more than a name with a version"),
    ("torch", "no list of names"),
    (None, "no list of names"),
])  # fmt: skip
def test_what_a_file_requires_and_is_not_there_is_said(tmp_path, read, requires, told):
    path = written(tmp_path / "e.safetensors", requires=requires)
    with pytest.raises(efface.EffaceError, match=told):
        read(path)


def test_a_kind_names_what_its_files_require(tmp_path, monkeypatch):
    path = tmp_path / "e.safetensors"
    monkeypatch.setattr(TextMap, "requires", ("torch>=2.0",))
    text_map().save(path)
    header, _ = files.read(path)
    assert header["requires"] == ["torch>=2.0"]
    assert header["format"] == 2
    assert torch.equal(efface.Erasure.load(path).u, text_map().u)
    monkeypatch.setattr(TextMap, "requires", ("torch>=99",))
    text_map().save(path)
    with pytest.raises(efface.EffaceError, match="requires 'torch>=99'"):
        efface.Erasure.load(path)


def test_a_file_is_written_in_the_format_that_holds_it(tmp_path, sd):
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    text_map().save(old)
    made = efface.erase(sd, "church", method="uce", keep=[])
    made.save(new)
    assert [files.read(path)[0]["format"] for path in (old, new)] == [1, 2]
    assert [summary_in(path)["format"] for path in (old, new)] == [1, 2]
    assert efface.Erasure.load(new).provenance == made.provenance


@pytest.mark.parametrize(
    "tensors",
    [
        {"u": torch.zeros(WIDTH, 2)},
        {"u": torch.zeros(WIDTH, 2), "v": torch.zeros(WIDTH, 3)},
        {"u": torch.zeros(4, 2), "v": torch.zeros(4, 2)},
        {"u": torch.zeros(WIDTH), "v": torch.zeros(WIDTH)},
    ],
)
def test_wrong_shapes_are_refused(tmp_path, tensors):
    files.write(tmp_path / "e.safetensors", {"kind": "textmap"} | ORIGIN.to_json(), tensors)
    with pytest.raises(efface.EffaceError, match="expected u and v"):
        efface.Erasure.load(tmp_path / "e.safetensors")


@settings(max_examples=30, deadline=None)
@given(rank=st.integers(0, 8), seed=st.integers(0, 999), name=st.text(min_size=1, max_size=20).filter(str.strip))
def test_round_trip(tmp_path_factory, rank, seed, name):
    path = tmp_path_factory.mktemp("trip") / "e.safetensors"
    origin = Provenance(
        "uce", {"ridge": 0.1}, (efface.Concept(name, "style", ("α",), "art"),), ORIGIN.base, ("a", "b"), {"x": 1}
    )
    before = TextMap(origin, *(t for t in (text_map(seed, rank).u, text_map(seed, rank).v)))
    before.save(path)
    after = efface.Erasure.load(path)
    assert isinstance(after, TextMap)
    assert after.provenance == origin
    assert torch.equal(after.u, before.u)
    assert torch.equal(after.v, before.v)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_header_whose_length_begins_like_a_pickle_or_zip_is_read(tmp_path, length):
    tensors = {"u": torch.ones(2, 3)}
    plain = int.from_bytes(serialize(tensors, {"note": ""})[:8], "little")
    data = serialize(tensors, {"note": "x" * (length - plain)})
    assert int.from_bytes(data[:8], "little") == length
    (tmp_path / "e.safetensors").write_bytes(data)
    found = open_tensors(tmp_path / "e.safetensors", "tensors")
    assert torch.equal(found.tensors["u"], tensors["u"])


def test_weight_delta_round_trip(tmp_path):
    deltas = {
        "unet.a.weight.up": torch.randn(4, 1),
        "unet.a.weight.down": torch.randn(1, 3),
        "unet.b.weight": torch.randn(2, 2),
    }
    WeightDelta(ORIGIN, deltas).save(tmp_path / "e.safetensors")
    after = efface.Erasure.load(tmp_path / "e.safetensors")
    assert after.targets() == ["unet.a.weight", "unet.b.weight"]
    assert {k: v.tolist() for k, v in after.tensors().items()} == {k: v.tolist() for k, v in deltas.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_has_its_sha256(tmp_path, dtype):
    """Over its bytes in the file, as anyone can compute it; a transposed view is hashed as it is saved."""
    deltas = {"unet.a.weight": torch.randn(2, 3).T.to(dtype), "unet.b.weight": torch.zeros(0, 2, dtype=dtype)}
    WeightDelta(ORIGIN, deltas).save(tmp_path / "e.safetensors")
    data = (tmp_path / "e.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    parts = {name: header[name]["data_offsets"] for name in deltas}
    sums = {n: hashlib.sha256(data[8 + size + a : 8 + size + b]).hexdigest() for n, (a, b) in parts.items()}
    assert efface.Erasure.load(tmp_path / "e.safetensors").summary()["sha256"] == sums
    assert WeightDelta(ORIGIN, deltas).summary()["sha256"] == sums


def test_values_that_are_not_finite_are_never_saved(tmp_path):
    broken = TextMap(ORIGIN, torch.full((WIDTH, 1), float("nan")), torch.zeros(WIDTH, 1))
    with pytest.raises(efface.EffaceError, match="not finite"):
        broken.save(tmp_path / "e.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "missing" / "e.safetensors", tmp_path / "file" / "e.safetensors"):
        with pytest.raises(efface.EffaceError, match="could not be written"):
            text_map().save(place)


def test_a_disk_that_fills_up_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "e.safetensors"
    text_map(0).save(path)
    old = path.read_bytes()
    # The kernel refuses to write beyond the limit, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(efface.EffaceError, match="could not be written"):
            text_map(1, rank=200).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]
