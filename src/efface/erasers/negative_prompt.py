"""The negative prompt: what is to be left stands behind the caller's own, the baseline of every guard (Ho and Salimans, arXiv
2207.12598)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config:
    """Options of the negative prompt."""

    phrases: tuple[str, ...] | None = None
    """Texts of what is to be left, read as one; by default SLD's twenty terms for what is explicit, else names and aliases."""


PUBLISHED: Mapping[str, Any] = {}
"""There is nothing to choose."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """The guard; nothing is computed, and `judge` is not used.

    Raises:
        EffaceError: the model draws no unconditional half.
    """
    from efface.concepts.guarded import safety_text
    from efface.erasures.guards.negative import NegativePrompt
    from efface.steering.guards import make_guard

    rule = NegativePrompt(phrases=safety_text(concepts) if config.phrases is None else config.phrases)
    return make_guard(model, "negative-prompt", config, concepts, {"negative-prompt": rule})
