"""Tiny models that the tests of erasers share."""

from __future__ import annotations

import pytest

import tiny
from efface.models.model import Model


@pytest.fixture(scope="module")
def model(sd):
    """The tiny Stable Diffusion 1.x, as erasers get it."""
    return Model(sd)


@pytest.fixture(scope="module")
def xl():
    """A tiny SDXL."""
    return tiny.stable_diffusion_xl()
