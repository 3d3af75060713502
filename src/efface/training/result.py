"""From a loss to an erasure: trained, resumable, with where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from efface.concepts.concept import Concept
from efface.erasures.delta import WeightDelta, weight_delta
from efface.erasures.provenance import provenance
from efface.io.cache import cache_folder
from efface.models.model import Model
from efface.models.unchanged import known_fingerprint
from efface.training import loop
from efface.training.config import Training
from efface.training.holders import Holder


def trained_erasure(
    model: Model,
    method: str,
    concepts: Sequence[Concept],
    config: Training,
    held: Holder,
    loss: loop.Loss,
    **options: Any,
) -> WeightDelta:
    """Train, and make what was learnt a weight delta.

    Snapshots lie in the cache folder under the hash of method, concepts, configuration and model, so that the same call
    goes on where it was stopped.

    Args:
        model: the model; it stays as it is.
        method: name of the eraser.
        concepts: what is erased.
        config: the method's options.
        held: what is trained.
        loss: of one step.
        **options: of `efface.training.loop.train`.
    """
    settings = asdict(config)
    origin = provenance(model, method, settings, concepts, settings.get("keep") or ())
    base = known_fingerprint(model).to_json()
    identity = json.dumps([method, settings, [asdict(c) for c in concepts], base], sort_keys=True)
    folder = cache_folder() / "training" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    trained = loop.train(model, held, loss, config, folder=folder, **options)
    return weight_delta(provenance(model, method, settings, concepts, origin.keep, **trained.notes), trained.deltas)
