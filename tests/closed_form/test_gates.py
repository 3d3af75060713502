"""Where gates open: between a concept's own prompts and what is retained, and past what is akin to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import efface
from efface.closed_form.gates import AKIN, MARGIN, _threshold
from efface.models.model import Model
from efface.profiles.emoji.words import OBJECTS, STYLES, caption

cosine = st.floats(-1, 1)


@given(cosine, cosine, cosine)
def test_a_gate_opens_for_its_own_and_not_for_what_is_retained(one, other, akin):
    others, own = sorted((one, other))
    found = float(_threshold(*map(torch.tensor, (own, others, max(akin, others)))))
    assert found >= (own + others) / 2 - 1e-6
    assert found <= max((own + others) / 2, own - MARGIN) + 1e-6
    if others < akin < own - 2 * MARGIN:
        assert found >= akin + min(AKIN * (own - akin), MARGIN) - 1e-6


@pytest.mark.parametrize(("erased", "akin"), [("christmas tree", "palm tree"), ("cocktail glass", "wine glass")])
def test_another_of_the_sort_opens_no_gate(erased, akin):
    emoji = efface.load("emoji")
    stay = [o.name for o in OBJECTS if o.name not in (erased, akin, "clinking beer mugs")][::3]
    keep = [caption(name, style) for name in stay for style in (None, *STYLES)]
    erasure = efface.erase(emoji, erased, method="gated", keep=keep, prior="never")
    model = Model(emoji)
    for style in STYLES:
        own, other = (model.projection_inputs(model.encode([caption(name, style)])) for name in (erased, akin))
        assert erasure.gates.open(own.float()).all()
        assert torch.equal(erasure.map(other), other)
