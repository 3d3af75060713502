"""Erasers: one file a published method, and its name in ERASERS; those of plugins beside them.

A method's file is an `Eraser` (see `efface.erasers.base`): it holds a frozen dataclass `Config`, `PUBLISHED`, `erase` and,
where it can be hardened, `extend`. It imports nothing heavy at its top, so that its options can be listed without torch.
"""

from __future__ import annotations

from efface.erasers.base import Eraser
from efface.registry import Registry

METHODS = (
    "rece", "gated", "joint", "preserve", "project", "saeuron", "anchored", "itd", "uce", "speed", "oce", "double-projection",
    "esd", "ca", "sdd", "doco", "sculpting", "kpop", "spm", "geom",
    "hirm", "mace", "receler", "advunlearn", "stereo", "aegis", "eraseflow", "unsee",
    "sld", "negative-prompt", "safree", "seot", "concept-steerers", "crg", "sauce",
)  # fmt: skip
"""The methods of this package; one registration a method."""

ERASERS: Registry[Eraser] = Registry(
    "method", "efface.erasers", {name: f"efface.erasers.{name.replace('-', '_')}" for name in METHODS}, contract=Eraser
)
"""Every method, also those that plugins bring."""
