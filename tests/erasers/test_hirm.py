"""HiRM: its loss against the formula, the layers that it trains and reads, and encoders that are left out."""

from __future__ import annotations

import pytest
import torch

import efface
from efface.families.encoder_layers import attention_outputs
from efface.models.model import Model
from efface.training.encoders import last_read
from trained import begun
from trained_searches import CHURCH, squared, started


def attended(pipe, prompt, layer=-1):
    """What the attention of a layer gives for a prompt (tokens width), by the encoder's own modules."""
    found = []
    projections = [m for n, m in pipe.text_encoder.named_modules() if n.endswith("self_attn.out_proj")]
    handle = projections[layer].register_forward_hook(lambda module, args, output: found.append(output[0]))
    Model(pipe).encode([prompt])
    handle.remove()
    return found[0]


@pytest.mark.parametrize("form", ["semantic", "random"])
def test_hirm_is_its_formula(sd, model, form):
    training = begun(model, "hirm", [CHURCH], form=form, length=7.0, keep=("a truck",), retain=0.5)
    started(training)
    with training.held.active():
        h, r = attended(sd, "a church"), model.encode(["a truck"]).states
    v = attended(sd, "a cat")
    if form == "random":
        v = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
        v = 7.0 * v / v.norm(dim=1, keepdim=True)
        torch.testing.assert_close(v.norm(dim=1), torch.full((12,), 7.0))
    expected = squared(h, v) + 0.5 * squared(r, model.encode(["a truck"]).states)
    assert training.gradients()[0] == pytest.approx(expected, rel=1e-4)


def test_hirm_trains_the_first_layer_alone_and_reads_the_last_that_the_denoiser_reads(sd, model, xl):
    names = efface.erase(sd, CHURCH, method="hirm", keep=[], iterations=1).targets()
    assert names
    assert all(".layers.0." in name and "norm" not in name for name in names)
    assert last_read(model, "text_encoder").layer.endswith("layers.1.")
    read = [last_read(Model(xl), name).layer for name in ("text_encoder", "text_encoder_2")]
    assert all(layer.endswith("layers.0.") for layer in read)  # SDXL's states come from before the last of two layers
    assert len(attention_outputs(sd.text_encoder)) == 2


def test_an_encoder_that_is_left_out_is_said(xl):
    with pytest.warns(UserWarning, match="text_encoder_2 reads the prompt too and stays as it was"):
        erasure = efface.erase(xl, CHURCH, method="hirm", keep=[], iterations=1, encoders=("text_encoder",))
    assert all(name.startswith("text_encoder.") for name in erasure.targets())
    with pytest.raises(efface.UsageError, match="no text encoder 'clip'"):
        efface.erase(xl, CHURCH, method="hirm", keep=[], encoders=("clip",))
