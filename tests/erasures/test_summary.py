"""What a file says of itself without torch is what it says with it, refusals included."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import efface
from efface.erasures import WeightDelta
from efface.erasures.summary import summary_in
from efface.io.tensor_file import serialize
from small_erasure import ORIGIN, WIDTH, text_map

CHANGE = {
    "unet.a.weight": torch.randn(3, 4),
    "unet.b.weight.up": torch.randn(5, 2),
    "unet.b.weight.down": torch.randn(2, 4),
}


def both(path):
    """The two answers, or the two refusals."""
    answers = []
    for read in (lambda: efface.Erasure.load(path).summary(), lambda: summary_in(path)):
        try:
            answers.append(read())
        except efface.EffaceError as error:
            answers.append(str(error))
    return answers


@pytest.mark.parametrize("erasure", [text_map(), WeightDelta(ORIGIN, CHANGE)], ids=["textmap", "delta"])
def test_the_same_is_said(erasure, tmp_path):
    erasure.save(tmp_path / "e.safetensors")
    with_torch, without = both(tmp_path / "e.safetensors")
    assert isinstance(without, dict)
    assert without == with_torch


GOOD = {"kind": "textmap", "format": 1} | ORIGIN.to_json()
FACTORS = {"u": torch.randn(WIDTH, 2), "v": torch.randn(WIDTH, 2)}
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


@pytest.mark.parametrize(("header", "tensors"), [
    (GOOD, FACTORS), (GOOD | {"format": 3}, FACTORS), (GOOD | {"format": "1"}, FACTORS), (GOOD | {"kind": "new"}, FACTORS),
    ({"kind": "textmap", "format": 1}, FACTORS), (GOOD | {"concepts": []}, FACTORS), (GOOD, {"u": FACTORS["u"]}),
    (GOOD, FACTORS | {"v": torch.randn(WIDTH, 3)}), (GOOD, FACTORS | {"v": torch.full((WIDTH, 2), float("inf"))}),
    (GOOD, FACTORS | {"v": torch.full((WIDTH, 2), float("nan"), dtype=torch.bfloat16)}),
    (GOOD, FACTORS | {"v": torch.ones(WIDTH, 2, dtype=torch.int64)}),
    (GOOD | {"kind": "delta"}, CHANGE), (GOOD | {"kind": "delta"}, {}),
    (GOOD | {"kind": "delta"}, {"a.up": torch.randn(3, 2)}), (GOOD | {"kind": "delta"}, CHANGE | {"unet.b.weight": torch.ones(5, 4)}),
    (GOOD | {"kind": "delta"}, CHANGE | {"unet.b.weight.up": torch.ones(5, 3)}), (GOOD | {"kind": "activation"}, FACTORS),
    *((GOOD, {name: tensor.to(dtype) for name, tensor in FACTORS.items()}) for dtype in HALVES.values()),
])  # fmt: skip
def test_the_same_is_refused(header, tensors, tmp_path):
    path = tmp_path / "e.safetensors"
    path.write_bytes(serialize(tensors, {"efface": json.dumps(header)}))
    with_torch, without = both(path)
    assert without == with_torch


def test_a_file_without_its_checksum(tmp_path):
    from safetensors.torch import save_file

    save_file(FACTORS, tmp_path / "e.safetensors", {"efface": json.dumps(GOOD)})
    with_torch, without = both(tmp_path / "e.safetensors")
    assert "checksum" in without
    assert without == with_torch


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_refused(data, tmp_path):
    path = tmp_path / "e.safetensors"
    text_map().save(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) * 8 - 1))
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(bytes(content))
    with pytest.raises(efface.EffaceError):
        summary_in(path)


LISTED = (
    "import sys; from efface.cli import main; code = main({words!r}); print(code, *({heavy!r} & sys.modules.keys()))"
)


def imported(words, heavy):
    """The exit code of a command in a process of its own, and which of some modules it imported."""
    code = LISTED.format(words=words, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_show_imports_no_torch(tmp_path):
    text_map().save(tmp_path / "e.safetensors")
    assert imported(["show", str(tmp_path / "e.safetensors")], {"torch", "diffusers", "transformers"}) == "0"


def test_erasing_from_a_folder_imports_neither_diffusers_nor_a_compiler(tmp_path):
    import tiny

    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    words = [
        "erase",
        "rece",
        str(tmp_path / "model"),
        "church",
        "--keep",
        "none",
        "-o",
        str(tmp_path / "e.safetensors"),
    ]
    assert imported(words, {"diffusers", "transformers.modeling_utils", "torch._dynamo", "sympy", "scipy"}) == "0"
