"""SPM: its loss against the formula, and what its anchors are."""

from __future__ import annotations

import pytest
import torch

import efface
from efface.erasers import ERASERS, spm
from efface.training.groups import transformer_weights
from efface.training.latents import rolled
from trained import begun

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
TRUCK = efface.Concept("truck", anchor="cat", templates=("a {}",))
OPTIONS = {"iterations": 2, "warmup": 0, "draw_steps": 3, "sampled": 2}


@pytest.mark.parametrize("keep", [("a dog", "a cat"), ()])
def test_spm_is_its_formula(model, keep):
    training = begun(model, "spm", [CHURCH], **OPTIONS, eta=1.5, anchoring=10.0, keep=keep)
    g = torch.Generator().manual_seed(0)
    for p in training.held.parameters:
        p.data += 0.2 * torch.randn(p.shape, generator=g)
    step = training.step()
    step.integer(1)  # which prompt
    after = step.integer(3)
    c, empty = model.encode(["a church"]), model.encode([""])
    with training.held.active(), torch.no_grad():
        z = rolled(model, c, after, 11, steps=3, guidance=3.0, side=None)
    other = spm._other(step, c, keep, ERASERS.load("spm").Config(**OPTIONS))

    def predict(text, row=None):
        text = text if row is None else text.part(slice(row, row + 1))
        return model.predict(z.z, z.timestep, text).detach().double()

    target = predict(empty) - 1.5 * (predict(c) - predict(empty))
    before = [predict(other, row) for row in range(2)]
    with training.held.active():
        expected = (predict(c) - target).square().mean()
        expected += 10 * sum((predict(other, row) - before[row]).square().mean() for row in range(2)) / 2
    assert training.gradients()[0] == pytest.approx(float(expected), rel=1e-4)


def test_adapters_sit_inside_transformers_alone_and_begin_as_nothing(model):
    weights = transformer_weights(model)
    assert all(".attentions." in w.name and w.parameter == "weight" for w in weights)
    assert any(w.module.__class__.__name__ == "Conv2d" for w in weights)
    training = begun(model, "spm", [CHURCH, TRUCK], **OPTIONS, keep=())
    assert len(training.held.parameters) == 2 * 2 * len(weights)
    for name, tensor in training.held.delta().items():
        if name.endswith(".up"):
            assert not tensor.any()
        else:
            assert tensor.abs().max() <= tensor.shape[1] ** -0.5


def test_each_concept_is_trained_alone(sd):
    def erased(*concepts):
        return efface.erase(sd, list(concepts), method="spm", **OPTIONS, lr=1e-2, keep=["a dog"]).deltas

    one, both = erased(CHURCH), erased(CHURCH, TRUCK)
    assert all(torch.equal(both[name], tensor) for name, tensor in one.items())
    assert any(tensor.any() for name, tensor in both.items() if name.startswith("1|") and name.endswith(".up"))


def test_noise_has_the_concepts_length(model):
    training = begun(model, "spm", [CHURCH], **OPTIONS, keep=())
    c = model.encode(["a church"])
    config = ERASERS.load("spm").Config(**OPTIONS | {"sampled": 8}, anchors="noise")
    other = spm._other(training.step(), c, ["a dog"], config)
    lengths = other.states.flatten(1).norm(dim=1) / c.states.norm()
    assert ((lengths > 0.8) & (lengths < 1.2)).all()
    assert not torch.equal(other.states[0], other.states[1])
    assert torch.equal(other.mask, c.mask.expand(8, -1))


def test_options():
    config = ERASERS.load("spm").Config
    with pytest.raises(efface.UsageError, match="rank is missing"):
        config(rank=None)
    with pytest.raises(efface.UsageError, match="fewer steps of warm-up than the 10"):
        config(iterations=10)
