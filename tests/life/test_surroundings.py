"""What surrounds a pipeline: autocast, defaults, compilation, offloading, saving."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook, disk_offload
from diffusers import DiffusionPipeline, UNet2DConditionModel

import efface
from alive import assert_same, fresh, gap, own, shoot, text_map, weights
from efface.erasures import TextMap, attached_to
from tiny_families import pipeline


@pytest.mark.parametrize("fold", [False, True])
def test_inside_autocast(fold, bfloat16):
    strong = TextMap(text_map().provenance, text_map().u * 3, text_map().v)  # bfloat16 pictures are coarse
    pipe = fresh()
    before = weights(pipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = shoot(pipe)
    with strong.attached(pipe, fold=fold), torch.autocast("cpu", dtype=torch.bfloat16):
        erased = shoot(pipe)
        inside = weights(pipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shoot(pipe)
        with strong.attached(pipe, fold=fold):
            assert_same(pipe, inside)
            got = shoot(pipe)
        assert gap(shoot(pipe), plain) == 0.0
    assert gap(got, erased) < gap(erased, plain) / 2
    assert_same(pipe, before)


@contextmanager
def coarse_products():
    """Products of float32 matrices in bfloat16, where the processor has it."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@contextmanager
def default_dtype(dtype):
    """Another default dtype."""
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "another device by default": lambda: torch.device("meta"),
    "coarse products": coarse_products,
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_what_is_erased_does_not_depend_on_the_program_around(around):
    pipe = fresh()
    concept = efface.Concept("church", anchor="cat")
    expected = efface.erase(pipe, concept, method="rece", keep=["a dog"])
    with SURROUNDINGS[around]():
        made = efface.erase(pipe, concept, method="rece", keep=["a dog"])
    assert {t.dtype for t in made.tensors().values()} == {torch.float32}
    for name, tensor in expected.tensors().items():
        assert torch.equal(made.tensors()[name], tensor), name
    states = efface.Model(pipe).encode(["a church"]).states.requires_grad_()
    made.map(states).sum().backward()  # type: ignore[attr-defined]
    assert states.grad is not None


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_folding_does_not_depend_on_the_program_around(around):
    expected = fresh()
    text_map().attach(expected, fold=True)
    pipe = fresh()
    with SURROUNDINGS[around]():
        text_map().attach(pipe, fold=True)
    assert_same(pipe, weights(expected))
    with SURROUNDINGS[around]():
        text_map().remove(pipe)
    assert_same(pipe, weights(fresh()))


@pytest.mark.parametrize("fold", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiled_as_a_whole_graph(fold):
    pipe = fresh()
    plain = shoot(pipe)
    with text_map().attached(pipe, fold=fold):
        erased = shoot(pipe)
    pipe.unet.compile(backend="eager", fullgraph=True)
    assert gap(shoot(pipe), plain) < 1e-6
    with text_map().attached(pipe, fold=fold):
        assert gap(shoot(pipe), erased) < 1e-6
        view = type(pipe).from_pipe(pipe)
        view.set_progress_bar_config(disable=True)
        assert gap(shoot(view), erased) < 1e-6
    assert gap(shoot(pipe), plain) < 1e-6


def test_a_compiled_network_has_one_pipeline_s_erasures():
    pipe = fresh()
    other = own(pipe)
    pipe.unet.compile(backend="eager")
    with text_map().attached(pipe):
        with pytest.raises(efface.EffaceError, match="compiled"):
            shoot(other)
        with pytest.raises(efface.EffaceError, match="compiled"):
            text_map("dog").attach(other)
        assert attached_to(other) == []
        shoot(pipe)


def by_model(pipe, tmp_path):
    cpu_offload_with_hook(pipe.unet, execution_device="cpu")


def sequentially(pipe, tmp_path):
    cpu_offload(pipe.unet, execution_device="cpu", offload_buffers=True)


def by_groups(pipe, tmp_path):
    pipe.unet.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def to_disk(pipe, tmp_path):
    disk_offload(pipe.unet, str(tmp_path / "weights"), execution_device="cpu", offload_buffers=True)


def by_groups_to_disk(pipe, tmp_path):
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
    )


OFFLOADS = [by_model, sequentially, by_groups, to_disk, by_groups_to_disk]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_mapped_while_offloaded(offload, when, tmp_path):
    pipe = fresh()
    plain = shoot(pipe)
    with text_map().attached(pipe):
        erased = shoot(pipe)
    if when == "after":
        text_map().attach(pipe)
    offload(pipe, tmp_path)
    if when == "before":
        text_map().attach(pipe)
    assert gap(shoot(pipe), erased) < 1e-6
    assert len(attached_to(pipe)) == 1
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) < 1e-6


@pytest.mark.parametrize("offload", OFFLOADS)
def test_folded_and_then_offloaded(offload, tmp_path):
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe, fold=True)
    erased = shoot(pipe)
    offload(pipe, tmp_path)
    assert gap(shoot(pipe), erased) < 1e-6
    if offload in (to_disk, by_groups_to_disk):
        with pytest.raises(efface.EffaceError, match="offloaded to disk"):
            text_map().remove(pipe)
        assert gap(shoot(pipe), erased) < 1e-6
        assert len(attached_to(pipe)) == 1
        return
    assert efface.check(pipe).intact
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) < 1e-6


@pytest.mark.parametrize("offload", [sequentially, to_disk])
def test_folding_into_what_is_offloaded_is_refused(offload, tmp_path):
    pipe = fresh()
    text_map().attach(pipe)
    text_map().remove(pipe)
    offload(pipe, tmp_path)
    with pytest.raises(efface.EffaceError, match="offloaded"):
        text_map().attach(pipe, fold=True)
    assert attached_to(pipe) == []


@pytest.mark.parametrize("what", ["pipeline", "network"])
def test_saving_while_attached_warns(what, tmp_path):
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    saved = pipe if what == "pipeline" else pipe.unet
    with pytest.warns(UserWarning, match=r"WITH 'church'.*efface export") as said:
        saved.save_pretrained(tmp_path)
    assert len(said) == 1
    if what == "pipeline":
        loaded = DiffusionPipeline.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert gap(shoot(loaded), plain) < 1e-6
    text_map().remove(pipe)
    saved.save_pretrained(tmp_path)


def test_folded_weights_are_saved_as_they_are(tmp_path):
    pipe = fresh()
    with text_map().attached(pipe, fold=True):
        pipe.save_pretrained(tmp_path)
        erased = shoot(pipe)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert gap(shoot(loaded), erased) < 1e-6


def test_classes_that_come_later_are_watched():
    class Later(type(fresh())):
        """A pipeline of one's own."""

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    base = pipeline("sd1")
    pipe = Later(**{k: v for k, v in base.components.items() if k != "image_encoder"}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    plain = shoot(pipe)
    with text_map().attached(pipe):
        assert gap(shoot(pipe), plain) > 1e-3
        unet = pipe.unet
        pipe.unet = UNet2DConditionModel.from_config(unet.config)
        pipe.unet.load_state_dict(unet.state_dict())
        assert gap(shoot(pipe), plain) > 1e-3
        pipe.unet = unet
    assert gap(shoot(pipe), plain) == 0.0


def test_what_is_attached_prints_as_a_table():
    pipe = fresh()
    assert str(efface.check(pipe)) == "nothing is attached to this StableDiffusionPipeline"
    assert not efface.check(pipe)
    text_map().attach(pipe)
    text_map("dog").attach(pipe, scale=0.5)
    report = efface.check(pipe)
    assert report
    assert [row.concepts for row in report.rows] == ["'church'", "'dog'"]
    assert report.rows[0].networks == ("unet",)
    lines = str(report).splitlines()
    assert lines[0].split() == ["erases", "digest", "way", "scale", "times", "on", "intact"]
    assert lines[2].split() == ["'dog'", text_map("dog").digest[:12], "mapped", "0.5", "1", "unet", "yes"]


def test_a_hot_reload_of_efface():
    """As a development server does it: the modules are imported anew while the pipeline lives on."""
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)
    old = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "efface"}
    try:
        again = importlib.import_module("efface")
        erasures = importlib.import_module("efface.erasures")
        same = erasures.TextMap(text_map().provenance, text_map().u, text_map().v)
        other = erasures.TextMap(text_map("dog").provenance, text_map("dog").u, text_map("dog").v)
        same.attach(pipe)
        assert [a.count for a in again.attached_to(pipe)] == [2]
        assert gap(shoot(pipe), erased) == 0.0
        other.attach(pipe)
        both = shoot(pipe)
        for erasure in (other, same, same):
            erasure.remove(pipe)
        assert gap(shoot(pipe), plain) == 0.0
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "efface"]:
            del sys.modules[name]
        sys.modules.update(old)
    with text_map().attached(pipe), text_map("dog").attached(pipe):
        assert gap(shoot(pipe), both) == 0.0
    assert gap(shoot(pipe), plain) == 0.0
