"""What the methods that make guards have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from efface.concepts.concept import Concept
from efface.erasures.guard import GUARD, Guard, Rule, entry_of, known_by
from efface.erasures.provenance import Provenance
from efface.models.model import Model
from efface.models.unchanged import known_footprint


def make_guard(
    model: Model,
    method: str,
    config: Any,
    concepts: Sequence[Concept],
    rules: Mapping[str, Rule],
    *,
    vectors: Mapping[str, Tensor] | None = None,
    **notes: Any,
) -> Guard:
    """The guard of some rules by their names, after each has said whether the model can be guarded so.

    Raises:
        EffaceError: it cannot.
    """
    for rule in rules.values():
        rule.require(model)
    names = known_by(model)
    held = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    held |= {GUARD: [entry_of(name, rule) for name, rule in rules.items()], "known_by": names}
    keep = tuple(held.get("keep") or ())
    origin = Provenance(method, held, tuple(concepts), known_footprint(model, names), keep, notes)
    return Guard(origin, dict(vectors or {}))
