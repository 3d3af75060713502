"""A text map of six numbers a token, of no model."""

from __future__ import annotations

import torch

import efface
from efface.erasures import Provenance, TextMap
from efface.models.fingerprint import Fingerprint

WIDTH = 6
ORIGIN = Provenance(
    "rece", {"epochs": 3, "keep": ("a dog",)}, (efface.Concept("church"),), Fingerprint("f", WIDTH, "s", (0.5,))
)


def text_map(seed: int = 0, rank: int = 3) -> TextMap:
    g = torch.Generator().manual_seed(seed)
    return TextMap(ORIGIN, torch.randn(WIDTH, rank, generator=g), torch.randn(WIDTH, rank, generator=g))
