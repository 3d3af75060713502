"""Erasures as diffusers' own hooks on a bare UNet: what attaching to its pipeline does, without the pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import HookRegistry
from torch import nn

import efface
import tiny
from efface.errors import EffaceError, UsageError

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))


def made(pipe, kind, folder):
    if kind == "pooled":  # of SDXL
        return efface.erase(pipe, CHURCH, method="joint", keep=["a dog"], prior="never")
    if kind == "text":
        return efface.erase(pipe, CHURCH, method="uce", rows="all", keep=["a dog"])
    return efface.erase(pipe, CHURCH, method="saeuron", keep=["a dog"], **tiny.coder_options(pipe, folder))


@pytest.mark.filterwarnings("ignore:the erasure does not reach")
@pytest.mark.parametrize("kind", ["text", "pooled", "activations"])
def test_a_hook_does_what_attaching_does(pipe, draw, kind, tmp_path):
    erasure, before = made(pipe, kind, tmp_path), draw(pipe)
    with erasure.attached(pipe, scale=0.8):
        expected = draw(pipe)
    efface.hook(pipe.unet, erasure, scale=0.8)
    found = draw(pipe)
    efface.unhook(pipe.unet)
    assert (found == expected).all()
    assert (found != before).any()
    assert (draw(pipe) == before).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules())


def test_hooks_compose_as_attachments_do(sd, draw, tmp_path):
    first, edit = made(sd, "text", tmp_path), made(sd, "activations", tmp_path)
    second = efface.erase(sd, "dog", method="uce", rows="all", keep=[], ridge=0.01)
    with first.attached(sd), second.attached(sd), edit.attached(sd):
        expected = draw(sd)
    for number, erasure in enumerate((first, second, edit)):
        efface.hook(sd.unet, erasure, name=f"efface-{number}")
    found = draw(sd)
    for name in ("efface-1", "efface-0", "efface-2", "never there"):
        efface.unhook(sd.unet, name)
    assert (found == expected).all()
    assert HookRegistry.check_if_exists_or_initialize(sd.unet).hooks == {}


def test_positional_arguments_and_gradients(sd, tmp_path):
    """As a training loop calls a UNet."""
    erasure = made(sd, "text", tmp_path)
    states = efface.Model(sd).encode(["a church"]).states.requires_grad_()
    x, level = torch.randn(1, 4, 8, 8), torch.tensor([500])
    expected = sd.unet(x, level, erasure.map(states)).sample
    efface.hook(sd.unet, erasure)
    found = sd.unet(x, level, states).sample
    efface.unhook(sd.unet)
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    assert gradient.abs().max() > 0


def test_what_does_not_fit_is_refused_in_a_sentence(sd, tmp_path):
    text, edit = made(sd, "text", tmp_path), made(sd, "activations", tmp_path)
    with pytest.raises(UsageError, match="edits weights"):
        efface.hook(sd.unet, efface.erase(sd, CHURCH, method="uce", target="tensor", keep=[]))
    with pytest.raises(EffaceError, match="expected a UNet"):
        efface.hook(nn.Linear(2, 2), text)
    with pytest.raises(EffaceError, match=r"no module unet\.mid_block"):
        efface.hook(tiny.unet(16, mid_block_type=None), edit)
    efface.hook(sd.unet, text)
    with pytest.raises(UsageError, match="already has"):
        efface.hook(sd.unet, text)
    with pytest.raises(EffaceError, match="16 wide, these are 24"):
        sd.unet(torch.randn(1, 4, 8, 8), 500, torch.randn(1, 12, 24))
    efface.unhook(sd.unet)
