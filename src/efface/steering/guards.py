"""What the methods that make guards have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
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
    # A file of texts and numbers stays small: of what was retained while its numbers were found, how much it was.
    notes |= {"retained": len(held.pop("keep", None) or ())}
    named = tuple(replace(concept, keep=()) for concept in concepts)
    origin = Provenance(method, held, named, known_footprint(model, names), (), notes)
    return Guard(origin, dict(vectors or {}))
