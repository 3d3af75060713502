"""What a training is said to take before it starts: measured on every family, and nothing of the model changes."""

import json

import pytest
import torch

import tiny_families
from efface.cli import main
from efface.erasers import ERASERS
from efface.errors import EffaceError
from efface.models.model import Model
from efface.models.timing import model_bytes
from efface.training.cost import cost_of
from quick import others_slow

QUICK = ("pixart-alpha", "flux-dev")
FAMILIES = others_slow(tiny_families.WHOLE, QUICK)


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
    cost = cost_of(model, config_of(method, iterations=7, side=tiny_families.CASES[family].side), "a church")
    assert cost.steps == 7
    assert cost.seconds > 0
    assert (cost.bytes > model_bytes(model.pipeline)) == (method != "hirm")
    after = [p for module in model.components().values() for p in module.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(weights, after, strict=True))


def test_memory_counts_what_is_trained_and_what_a_pass_keeps(sd):
    model = Model(sd)
    all_weights, low_rank = (cost_of(model, config_of("esd", where="all", rank=r), "a church").bytes for r in (None, 1))
    unet = sum(p.numel() for p in sd.unet.parameters())
    assert all_weights > model_bytes(sd) + 16 * unet
    assert low_rank < all_weights - 8 * unet
    small, large = (cost_of(model, config_of("esd", side=side), "a church").bytes for side in (16, 32))
    assert large > small
    kept = cost_of(model, config_of("esd", checkpointing=True, side=32), "a church").bytes
    assert kept < large


def test_a_plan_says_what_a_training_takes(folder, tmp_path, capsys):
    args = ["erase", "esd", folder, "church", "-o", str(tmp_path / "e.safetensors"), "--plan", "--device", "cpu"]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"].keys() == {"steps", "seconds", "bytes"}
    assert main([*args, "--iterations", "30"]) == 0
    assert "30 steps, at least" in capsys.readouterr().out
    assert main(["erase", "uce", *args[2:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"] is None


def test_what_does_not_fit_is_said_before_it_starts(sd, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Model, "predict", full)
    with pytest.raises(EffaceError, match="does not fit into the device's memory: take --checkpointing"):
        cost_of(Model(sd), config_of("esd"), "a church")
