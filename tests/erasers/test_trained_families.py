"""Trained erasers on other families: two steps, attached, removed bit for bit; one family in the fast suite, all with `-m ''`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface
from efface.models.model import Model
from quick import others_slow
from tiny_families import CASES, WHOLE, pipeline

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
QUICK = "sd2"
"""It predicts v, and its projections are linear."""
SHORT = {"iterations": 2, "draw_steps": 2, "lr": 1e-2}
METHODS = {
    "doco": SHORT | {"images": 2, "batch": 2, "warmup": 1, "where": "all"},
    "sculpting": SHORT | {"images": 2, "batch": 2, "warmup": 1, "lr": 0.1, "where": "all"},
    "kpop": SHORT | {"where": "all"},
    "spm": SHORT | {"warmup": 0, "sampled": 2},
}
FIXED_LENGTH = {"hunyuandit"}
"""Families to whose text no rows can be added."""
FAMILIES = others_slow(WHOLE, [QUICK])

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach")


def drawn(name):
    model = Model(pipeline(name))
    text = model.encode(["a church", "a cat"])
    *_, (_, latents) = model.denoise(text, seeds=[0, 1], steps=2, guidance=4.0, side=CASES[name].side)
    return latents.float().numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps(name, method, tmp_path):
    pipe = pipeline(name)
    options = METHODS[method] | {"side": CASES[name].side, "keep": ["a dog"]}
    if method == "kpop" and name in FIXED_LENGTH:
        with pytest.raises(efface.EffaceError, match="one length only"):
            efface.erase(pipe, CHURCH, method=method, **options)
        return
    before = {f"{c}.{k}": v.clone() for c, m in Model(pipe).components().items() for k, v in m.state_dict().items()}
    plain = drawn(name)
    efface.erase(pipe, CHURCH, method=method, **options).save(tmp_path / "e.safetensors")
    with efface.Erasure.load(tmp_path / "e.safetensors").attached(pipe):
        erased = drawn(name)
    assert np.isfinite(erased).all()
    assert np.abs(erased - plain).max() > 1e-5
    assert np.array_equal(drawn(name), plain)
    after = {f"{c}.{k}": v for c, m in Model(pipe).components().items() for k, v in m.state_dict().items()}
    assert all(torch.equal(value, before[key]) for key, value in after.items())
