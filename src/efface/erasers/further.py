"""What trained erasers with a search in them share where they train on with what attacks found (`extend`)."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from efface.erasers.base import Evidence, FoundInput
from efface.errors import EffaceError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.erasures.provenance import Provenance
    from efface.models.model import Model, Text
    from efface.training.config import Training
    from efface.training.holders import Reloadable
    from efface.training.loop import Loss, Step

C = TypeVar("C", bound="Training")


class Further(NamedTuple):
    """The result of training on."""

    provenance: Provenance
    deltas: dict[str, Tensor]


def take_up(held: Reloadable, erasure: Erasure) -> None:
    """Give a holder the values of an erasure.

    Raises:
        EffaceError: they are of other weights, or of other shapes.
    """
    from efface.models.spelling import one_name

    values = {one_name(name): value for name, value in erasure.tensors().items()}
    own = {one_name(name): p for name, p in zip(held.names, held.parameters, strict=True)}
    different = [n for n in (*own, *values) if n not in own or n not in values or own[n].shape != values[n].shape]
    if different:
        found, expected = (tuple(d[different[0]].shape) if different[0] in d else "nothing" for d in (values, own))
        raise EffaceError(
            f"the erasure holds {found} of {different[0]} where {expected} would be trained on: was it made for another model, or "
            "changed since? Erase anew."
        )
    held.load([values[name] for name in own])


def other_latents(config: C, erasure: Erasure, evidence: Evidence) -> C:
    """The options with another first seed, so that every training on of an erasure sees other latents."""
    before = sum(past["rounds"] for past in erasure.provenance.notes.get("trained_on", []))
    return replace(config, seed=config.seed + before + evidence.rounds)


def either(step: Step, own: int, found: int) -> int:
    """Number of one of the concept's own prompts or, in half of the steps, of what was found, which is counted on from them."""
    if found and step.integer(2):
        return own + step.integer(found)
    return step.integer(own)


def texts_of(evidence: Evidence) -> list[Text]:
    """What was found, each as the unerased model encodes it (one prompt)."""
    text = evidence.text
    text = text._replace(states=text.states.detach(), pooled=None if text.pooled is None else text.pooled.detach())
    return [text.part(slice(i, i + 1)) for i in range(len(evidence.found))]


def encoded(model: Model, table: Tensor, found: FoundInput, word: Tensor | None = None) -> Text:
    """An input that was found, encoded with gradients, behind new words where there are some; what no longer fits is cut.

    Args:
        model: the model.
        table: embedding of every token (vocabulary width).
        found: the input.
        word: embeddings of the new words (words width).
    """
    import torch

    count = 0 if word is None else len(word)
    ids = [*[0] * count, *found.ids][: model.max_tokens]
    if word is None and found.embeddings is None:
        return model.encode_tokens([ids])
    own = table[list(found.ids)] if found.embeddings is None else found.embeddings[: len(found.ids)].to(table)
    rows = own if word is None else torch.cat([word, own])
    return model.encode_tokens([ids], rows[None, : len(ids)])


def trained_on(
    model: Model,
    erasure: Erasure,
    evidence: Evidence,
    held: Reloadable,
    loss: Loss,
    config: Training,
    **options: Any,
) -> Further:
    """Train what holds an erasure's values on, and say in its provenance what it was trained on with.

    A stopped training goes on from its snapshots, which lie in the cache under the hash of model, erasure and evidence.

    Args:
        model: the model; it stays as it is.
        erasure: the erasure.
        evidence: what attacks found.
        held: holds its values.
        loss: of one step.
        config: options, with the seed of this training.
        **options: of `efface.training.loop.train`.
    """
    from efface.io.cache import cache_folder
    from efface.training import loop

    folder = cache_folder() / "training" / _identity(model, erasure, evidence, config)
    trained = loop.train(model, held, loss, config, folder=folder, **options)
    if "unfinished" not in trained.notes:
        shutil.rmtree(folder, ignore_errors=True)
    origin, steps = erasure.provenance, trained.notes["steps"]
    new = {"inputs": len(evidence.found), "rounds": evidence.rounds, "steps": steps}
    notes = origin.notes | trained.notes | {"steps": origin.notes.get("steps", 0) + steps}
    notes |= {"trained_on": [*origin.notes.get("trained_on", []), new]}
    return Further(replace(origin, notes=notes), trained.deltas)


def _identity(model: Model, erasure: Erasure, evidence: Evidence, config: Training) -> str:
    """Hexadecimal digits that all that determines a training on determines."""
    from efface.io.digest import sha256_of_tensors
    from efface.models.unchanged import known_fingerprint

    tensors = {f"{i}": f.embeddings for i, f in enumerate(evidence.found) if f.embeddings is not None}
    tensors |= {"states": evidence.text.states}
    tensors |= {} if evidence.text.pooled is None else {"pooled": evidence.text.pooled}
    described = json.dumps(
        [
            erasure.provenance.method,
            asdict(config),
            asdict(evidence.concept),
            [(f.prompt, f.ids, anchor) for f, anchor in zip(evidence.found, evidence.anchors, strict=True)],
            sha256_of_tensors(tensors),
            sha256_of_tensors(erasure.tensors()),
            known_fingerprint(model).to_json(),
        ],
        sort_keys=True,
    )
    return hashlib.sha256(described.encode()).hexdigest()[:16]
