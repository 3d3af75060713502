"""Concept steerers: which prompts move and how far, the formula of the direction, autoencoders that are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface
import tiny
import tiny_families
from efface.models.model import Model
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import save_sae
from efface.steering.steerer import direction, layer_states, middle_layer
from quick import others_slow

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
CHURCH = efface.Concept("church", anchor="cat")
PROMPT = "a church in noto style"
QUICK = {"sd1", "sd2", "pixart-alpha", "qwen-image"}
STEERING = {"iterations": 3, "factor": 2, "k": 4, "keep": ("a dog", "a cat")}


@pytest.mark.parametrize("name", others_slow(tiny_families.WHOLE, QUICK))
def test_steering_moves_prompts_one_way_and_negative_prompts_the_other(name):
    case, pipe = tiny_families.CASES[name], tiny_families.pipeline(name)
    picture = {"seed": 5, "steps": 2, "guidance": 4.0, "output": "np"}
    plain = tiny_families.own_picture(name, PROMPT, **picture)
    made = efface.erase(pipe, CHURCH, method="concept-steerers", strength=-5.0, **STEERING)
    with made.attached(pipe):
        called = tiny_families.own_picture(name, PROMPT, **picture)
        negative = " " if name == "qwen-image" else None
        drawn = Model(pipe).draw(
            [PROMPT], seeds=[5], steps=2, guidance=4.0, side=case.side, negative=negative, checked=False
        )
    assert np.abs(called - plain).max() > 1e-5
    assert np.abs(np.asarray(drawn[0], float) / 255 - called).max() <= 1.01 / 255 + 1e-3
    np.testing.assert_array_equal(tiny_families.own_picture(name, PROMPT, **picture), plain)


def test_steering_is_linear_in_its_strength_and_the_direction_is_the_formula(sd):
    sae = SparseAutoencoder(SAEConfig(16, 1, 1))
    layer = middle_layer(Model(sd))
    (x,) = layer_states(Model(sd), layer, ["church"])
    z = (x @ sae.encoder.weight[0]).clamp(min=0)
    torch.testing.assert_close(direction(Model(sd), sae, layer, "church"), z[:, None] * sae.W_dec.detach())
    states = {}
    made = efface.erase(sd, CHURCH, method="concept-steerers", **STEERING)
    for scale in (0.0, 1.0, 2.0):
        with made.attached(sd, scale=scale):
            found = []
            module = sd.text_encoder.get_submodule(layer.partition(".")[2])
            handle = module.register_forward_hook(
                lambda m, a, o, found=found: found.append(o[0] if isinstance(o, tuple) else o)
            )
            Model(sd).encode(["a dog"])
            Model(sd).encode_negative("a dog")
            handle.remove()
            states[scale] = found
    torch.testing.assert_close(
        states[2.0][0] - states[0.0][0], 2 * (states[1.0][0] - states[0.0][0]), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(states[1.0][1] - states[0.0][1], states[0.0][0] - states[1.0][0], rtol=1e-4, atol=1e-5)


def test_a_given_autoencoder_is_read_and_layers_are_checked(sd, tmp_path):
    save_sae(SparseAutoencoder(SAEConfig(16, 32, 4)), tmp_path / "sae")
    made = efface.erase(sd, CHURCH, method="concept-steerers", coder=str(tmp_path / "sae"))
    assert made.tensors()["vector"].shape == (tiny.LENGTH, 16)
    made.save(tmp_path / "g.safetensors")
    assert torch.equal(efface.Erasure.load(tmp_path / "g.safetensors").tensors()["vector"], made.tensors()["vector"])
    with pytest.raises(efface.EffaceError, match="no layer"):
        efface.erase(sd, CHURCH, method="concept-steerers", layer="text_encoder.nothing", coder=str(tmp_path / "sae"))
    with pytest.raises(efface.UsageError, match="trains an autoencoder"):
        efface.erase(sd, CHURCH, method="concept-steerers", keep=[])
