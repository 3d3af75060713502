"""From trained values to an erasure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from efface.concepts.concept import Concept
from efface.erasures.delta import WeightDelta, weight_delta
from efface.erasures.provenance import provenance
from efface.models.model import Model
from efface.training.config import Training
from efface.training.loop import Trained


def erasure_of(
    model: Model, method: str, concepts: Sequence[Concept], config: Training, trained: Trained
) -> WeightDelta:
    """The weight delta that a training made, with where it comes from."""
    settings = asdict(config)
    origin = provenance(model, method, settings, concepts, settings.get("keep") or (), **trained.notes)
    return weight_delta(origin, trained.deltas)
