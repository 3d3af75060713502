"""From a loss to an erasure: trained, resumable, with where it comes from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from efface.concepts.concept import Concept
from efface.erasures.delta import WeightDelta, weight_delta
from efface.erasures.provenance import Provenance, provenance
from efface.io.cache import cache_folder
from efface.io.checkpoint import read_state, write_state
from efface.models.model import Model
from efface.models.unchanged import known_fingerprint
from efface.training import loop
from efface.training.config import Training
from efface.training.holders import Holder
from efface.training.loop import Trained


class Run(NamedTuple):
    """A training of one or several stages."""

    origin: Provenance
    """Where its result will come from."""
    folder: Path
    """Where its snapshots lie, and the results of stages that are done."""

    def stage(self, name: str, learn: Callable[[Path], Trained]) -> Trained:
        """The result of a stage, from its file where it was done before; `learn` takes the folder of its snapshots."""
        path = self.folder / f"{name}.safetensors"
        try:
            values, metadata = read_state(path)
            return Trained(values, json.loads(metadata["notes"]))
        except (SafetensorError, OSError, KeyError, ValueError):
            pass
        trained = learn(self.folder / name)
        if "unfinished" not in trained.notes:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_state(path, trained.deltas, {"notes": json.dumps(trained.notes)})
        return trained

    def provenance(self, notes: dict[str, Any]) -> Provenance:
        """Where the result comes from; the stages' files are forgotten where it is finished."""
        if "unfinished" not in notes:
            shutil.rmtree(self.folder, ignore_errors=True)
        origin = self.origin
        return Provenance(
            method=origin.method, config=origin.config, concepts=origin.concepts, base=origin.base, keep=origin.keep,
            notes=notes,
        )  # fmt: skip


def begin(model: Model, method: str, concepts: Sequence[Concept], config: Training) -> Run:
    """A run that goes on where the same one was stopped: its folder, in the cache, has the hash of method, concepts,
    configuration and model."""
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    origin = provenance(model, method, settings, concepts, settings.get("keep") or ())
    base = known_fingerprint(model).to_json()
    identity = json.dumps([method, settings, [asdict(c) for c in concepts], base], sort_keys=True)
    return Run(origin, cache_folder() / "training" / hashlib.sha256(identity.encode()).hexdigest()[:16])


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

    Args:
        model: the model; it stays as it is.
        method: name of the eraser.
        concepts: what is erased.
        config: the method's options.
        held: what is trained.
        loss: of one step.
        **options: of `efface.training.loop.train`.
    """
    run = begin(model, method, concepts, config)
    trained = loop.train(model, held, loss, config, folder=run.folder, **options)
    return weight_delta(run.provenance(trained.notes), trained.deltas)
