"""Policies: each row of a batch is drawn under its own, in one call of the denoiser."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

import efface
from alive import fresh, gap, text_map
from efface.erasures import attached_to
from policy_erasures import erasures_of_every_kind

PROMPTS = ["a church", "a dog", "a church in noto style", "a garbage truck"]
POLICIES = [None, "eu", "kids", "eu"]
REACHES = pytest.mark.filterwarnings("ignore:the erasure does not reach")
pytestmark = REACHES


def shoot(pipe, **more):
    """Pictures of four prompts by a pipeline, or by policies (batch height width 3)."""
    call = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np", "prompt": PROMPTS} | more
    rows = len(call["prompt"]) * call.get("num_images_per_prompt", 1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    return pipe(generator=generators, **call).images


def alone(pipe, erasures, **more):
    """The same batch with erasures attached to the whole of it."""
    with ExitStack() as stack:
        for erasure in erasures:
            stack.enter_context(erasure.attached(pipe))
        return shoot(pipe, **more)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """An erasure of every kind that a policy may have."""
    return erasures_of_every_kind(tmp_path_factory.mktemp("sae"))


@pytest.mark.parametrize("kind", ["textmap", "gated-map", "activation", "adapter", "gated-delta", "delta"])
def test_every_row_is_that_of_the_same_batch_under_its_policy_alone(kind, kinds):
    pipe = fresh().to(torch.float64)
    held = {"eu": [kinds[kind], text_map("dog")], "kids": [text_map("dog"), kinds[kind]]}
    if kind == "delta":  # weights of projections come before maps
        held["kids"] = held["kids"][1:]
    plain = shoot(pipe)
    expected = {None: plain} | {name: alone(pipe, erasures) for name, erasures in held.items()}
    with efface.Policies(pipe, held) as policies:
        mixed = shoot(policies, policy=POLICIES)
        none = shoot(policies, policy=None)
        whole = shoot(policies, policy="eu")
    for row, name in enumerate(POLICIES):
        assert gap(mixed[row], expected[name][row]) < 1e-5
    assert np.array_equal(mixed[0], plain[0])
    assert np.array_equal(none, plain)
    assert gap(whole, expected["eu"]) < 1e-5
    assert gap(mixed[2], plain[2]) > 1e-4
    assert np.array_equal(shoot(pipe), plain) and not attached_to(pipe)
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in [*pipe.unet.modules(), *pipe.text_encoder.modules()]
    )
