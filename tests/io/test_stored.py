"""Tensors that stay in their files: whole, and a few of their values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import efface
from efface.io import stored
from efface.io.stored import DTYPES, stored_in


def tensors():
    g = torch.Generator().manual_seed(0)
    found = {"empty": torch.empty(0, 3), "one": torch.tensor(2.5)}
    for name, dtype in DTYPES.items():
        found[name] = torch.randint(0, 2, (5, 7), generator=g).to(dtype)
    found["odd"] = torch.randn(3, 11, generator=g).half()
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of every type, whose tensors do not begin at round places."""
    path = tmp_path_factory.mktemp("stored") / "t.safetensors"
    save_file(tensors(), path)
    return path


def test_whole_tensors(file, monkeypatch):
    monkeypatch.setattr(stored, "_CHUNK", 4)
    found = stored_in(file)
    for name, tensor in tensors().items():
        assert found[name].shape == tuple(tensor.shape)
        read = found[name].read()
        assert read.dtype == tensor.dtype
        assert torch.equal(
            read.view(torch.uint8) if read.ndim else read, tensor.view(torch.uint8) if tensor.ndim else tensor
        )
    assert torch.equal(found["odd"].read(torch.float32), tensors()["odd"].float())


@given(
    name=st.sampled_from(["empty", "one", "odd", "BF16", "BOOL", "F8_E4M3", "I64"]),
    step=st.integers(1, 40),
    count=st.integers(0, 40),
)
def test_some_values(file, name, step, count):
    expected = tensors()[name].flatten()[::step][:count]
    found = stored_in(file)[name].sample(step, count)
    assert found.dtype == expected.dtype
    assert torch.equal(found.double(), expected.double())


def test_what_is_no_file_of_tensors(tmp_path, file):
    with pytest.raises(efface.EffaceError, match="could not be read"):
        stored_in(tmp_path / "missing.safetensors")
    (tmp_path / "short.safetensors").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(efface.EffaceError, match="damaged"):
        stored_in(tmp_path / "short.safetensors")
    (tmp_path / "json.safetensors").write_text("{}")
    with pytest.raises(efface.EffaceError, match="damaged"):
        stored_in(tmp_path / "json.safetensors")


def test_a_file_that_changes_while_it_is_read(tmp_path, file):
    path = tmp_path / "t.safetensors"
    path.write_bytes(file.read_bytes())
    found = stored_in(path)
    path.write_bytes(file.read_bytes()[:200])
    with pytest.raises(efface.EffaceError, match="shorter"):
        found["odd"].read()
    with pytest.raises(efface.EffaceError, match="could not be read"):
        found["odd"].sample(1, 4)
    path.unlink()
    with pytest.raises(efface.EffaceError, match="could not be read"):
        found["odd"].read()
