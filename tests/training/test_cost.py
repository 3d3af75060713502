"""What a training is said to take before it starts: measured on every family, and nothing of the model changes."""

import json

import pytest
import torch

import tiny_families
from efface.api.erase import plan_erasure
from efface.cli import main
from efface.concepts.concept import Concept
from efface.erasers import ERASERS
from efface.erasers.base import config_from
from efface.erasures import Erasure
from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from efface.models.timing import model_bytes
from efface.training.cost import cost_of
from quick import others_slow

QUICK = ("pixart-alpha", "flux-dev")
FAMILIES = others_slow(tiny_families.WHOLE, QUICK)
CHURCH = [Concept("church")]


@pytest.fixture(scope="module")
def folder(sd, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-diffusion"
    sd.save_pretrained(path)
    return str(path)


def config_of(method, **options):
    return ERASERS.load(method).Config(**options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["unsee", "receler", "hirm"])
def test_cost_is_measured_on_every_family_and_leaves_it_as_it_was(family, method):
    model = Model(tiny_families.pipeline(family))
    weights = [p.detach().clone() for module in model.components().values() for p in module.parameters()]
    cost = cost_of(model, config_of(method, iterations=7, side=tiny_families.CASES[family].side), CHURCH)
    assert cost.steps == 7
    assert cost.seconds > 0
    assert (cost.bytes > model_bytes(model.pipeline)) == (method != "hirm")
    after = [p for module in model.components().values() for p in module.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(weights, after, strict=True))


def test_memory_counts_what_is_trained_and_what_a_pass_keeps(sd):
    model = Model(sd)
    all_weights, low_rank = (cost_of(model, config_of("esd", where="all", rank=r), CHURCH).bytes for r in (None, 1))
    unet = sum(p.numel() for p in sd.unet.parameters())
    assert all_weights > model_bytes(sd) + 16 * unet
    assert low_rank < all_weights - 8 * unet
    small, large = (cost_of(model, config_of("esd", side=side), CHURCH).bytes for side in (16, 32))
    assert large > small
    kept = cost_of(model, config_of("esd", checkpointing=True, side=32), CHURCH).bytes
    assert kept < large


def test_a_plan_says_what_a_training_takes(folder, tmp_path, capsys):
    args = ["erase", "esd", folder, "church", "-o", str(tmp_path / "e.safetensors"), "--plan", "--device", "cpu"]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"].keys() == {"steps", "seconds", "bytes"}
    assert main([*args, "--iterations", "30"]) == 0
    assert "30 steps, about" in capsys.readouterr().out
    assert main(["erase", "uce", *args[2:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"] is None


def test_pictures_are_timed_as_the_method_draws_them(sd, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "efface.models.timing.seconds_each", lambda model, prompts, settings: asked.append(settings) or 2.0
    )
    options = {"draw_steps": 7, "guidance": 3.5, "side": 16, "images": 4}
    plan = plan_erasure(sd, "church", method="ca", keep=["a dog"], **options)
    assert plan.cost() == {"pictures": plan.pictures(), "seconds": 2.0 * plan.pictures()}
    assert asked == [{"steps": 7, "guidance": 3.5, "side": 16}]


@pytest.mark.parametrize("size", [("--side", "16"), ("--width", "32", "--height", "16")], ids=len)
def test_the_size_of_pictures_is_that_of_the_training(size, folder, tmp_path):
    output = tmp_path / "e.safetensors"
    options = ("--iterations", "1", "--draw-steps", "2", "--keep", "none", "--device", "cpu", "-o", str(output))
    assert main(["erase", "esd", folder, "church", *options, *size]) == 0
    origin = Erasure.load(output).provenance
    assert config_from(ERASERS.load("esd").Config, origin.config).side == (16 if len(size) == 2 else (32, 16))


def test_a_size_that_the_model_cannot_draw_is_refused_before_anything_starts(sd):
    with pytest.raises(UsageError, match="the width is 33 pixels; expected a multiple of 2"):
        plan_erasure(sd, "church", method="esd", side=33)


def test_what_does_not_fit_is_said_before_it_starts(sd, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Model, "predict", full)
    with pytest.raises(EffaceError, match="does not fit into the device's memory: take --checkpointing"):
        cost_of(Model(sd), config_of("esd"), CHURCH)
