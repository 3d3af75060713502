"""Erasures of kind adapter: what they add, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface
from alive import adapter, fresh, gap, own, shoot, text_map
from efface.erasures import Adapter, attached_to
from efface.erasures.adapter import adapter as made
from efface.erasures.summary import summary_in
from efface.export.config import ExportConfig
from efface.export.run import export


def test_it_adds_what_the_formula_says():
    pipe, erasure = fresh(), adapter()
    name = next(iter(erasure.layers))
    module = pipe.unet.get_submodule(name.removeprefix("unet."))
    down, down_bias, up, up_bias = (part.double() for part in erasure.layers[name])
    seen = []
    handle = module.register_forward_hook(lambda m, args, output: seen.append(output))
    shoot(pipe, num_inference_steps=1)
    with erasure.attached(pipe, scale=0.5):
        order = list(module._forward_hooks)
        module._forward_hooks.move_to_end(order[0])  # the test's own hook sees what the erasure gave
        shoot(pipe, num_inference_steps=1)
    handle.remove()
    y = seen[0].double()
    expected = y + 0.5 * (torch.nn.functional.gelu(y @ down.T + down_bias) @ up.T + up_bias)
    torch.testing.assert_close(seen[1].double(), expected, atol=1e-4, rtol=1e-4)


def test_two_pipelines_over_one_network_have_their_own():
    pipe = fresh()
    other, plain = own(pipe), shoot(pipe)
    with adapter().attached(pipe), adapter(6).attached(other):
        first, second = shoot(pipe), shoot(other)
        assert efface.check(pipe).intact
        assert efface.check(other).intact
    assert gap(first, plain) > 1e-4
    assert gap(first, second) > 1e-4
    assert gap(shoot(pipe), plain) == gap(shoot(other), plain) == 0.0


def test_it_composes_with_others_and_any_may_leave_first():
    pipe = fresh()
    plain = shoot(pipe)
    with adapter().attached(pipe):
        alone = shoot(pipe)
    text_map().attach(pipe)
    adapter().attach(pipe)
    both = shoot(pipe)
    assert gap(both, alone) > 1e-5
    assert [a.erasure.kind for a in attached_to(pipe)] == ["textmap", "adapter"]
    text_map().remove(pipe)
    assert np.array_equal(shoot(pipe), alone)
    adapter().remove(pipe)
    assert np.array_equal(shoot(pipe), plain)


def test_weights_do_not_hold_it(tmp_path):
    pipe, plain = fresh(), None
    plain = shoot(pipe)
    with pytest.raises(efface.EffaceError, match="edits activations, which no weight does: attach it without folding"):
        adapter().attach(pipe, fold=True)
    with pytest.raises(efface.EffaceError, match="edits activations, which no weight does"):
        export(adapter(), pipe, tmp_path / "lora.safetensors", ExportConfig(to="lora"))
    assert attached_to(pipe) == []
    assert not list(tmp_path.iterdir())
    assert np.array_equal(shoot(pipe), plain)


def test_it_is_shown_without_being_loaded(tmp_path):
    adapter().save(tmp_path / "a.safetensors")
    shown = summary_in(tmp_path / "a.safetensors")
    assert shown == efface.Erasure.load(tmp_path / "a.safetensors").summary()
    assert shown["kind"] == "adapter"


NAME = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"
WRONG = {
    "a part is missing": lambda t: t.pop(f"{NAME}|up_bias"),
    "a part that is none": lambda t: t.update({f"{NAME}|gate": torch.zeros(3)}),
    "parts that do not fit": lambda t: t.update({f"{NAME}|up": torch.zeros(16, 4)}),
    "whole numbers": lambda t: t.update({f"{NAME}|down_bias": torch.zeros(3, dtype=torch.int64)}),
    "a scalar": lambda t: t.update({f"{NAME}|down_bias": torch.zeros(())}),
    "no layer": lambda t: t.update({"|down": torch.zeros(3, 16)}),
    "nothing": lambda t: t.clear(),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_files_are_refused_before_anything_is_used(case):
    tensors = dict(adapter().tensors())
    assert f"{NAME}|up" in tensors
    WRONG[case](tensors)
    with pytest.raises(efface.EffaceError, match=r"the adapter .*make the erasure again"):
        Adapter.check(tensors, 16)


def test_another_networks_layers_are_refused():
    pipe = fresh()
    plain = shoot(pipe)
    tensors = {name.replace("mid_block", "end_block"): t for name, t in adapter().tensors().items()}
    with pytest.raises(efface.EffaceError, match=r"no module called unet\.end_block"):
        made(adapter().provenance, tensors).attach(pipe)
    narrow = {
        n: t[:, :4] if n.endswith("|down") else t[:4] if "|up" in n else t for n, t in adapter().tensors().items()
    }
    erasure = made(adapter().provenance, narrow)
    with (
        erasure.attached(pipe),
        pytest.raises(efface.EffaceError, match="channels where the erasure's adapter reads 4"),
    ):
        shoot(pipe)
    assert np.array_equal(shoot(pipe), plain)


def test_what_is_not_finite_is_refused():
    tensors = dict(adapter().tensors())
    tensors[f"{NAME}|up"] = tensors[f"{NAME}|up"] * float("nan")
    with pytest.raises(efface.EffaceError, match="not finite"):
        made(adapter().provenance, tensors)
