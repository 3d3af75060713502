"""Joint: one linear map for a whole list of concepts, beside a prior of everything else (the closed forms of 2024 to 2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Listed, config_from

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(Listed):
    """Options of the joint map."""


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are its only settings."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""It reads nothing of a model but its text encoders and the matrices that read text."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase all concepts with the map (★) of `efface.closed_form.system`; `judge` is not used.

    What is retained is the mean of three moments: of prompts near the concepts, of the text encoder's other words, of what
    was erased on the pipeline before. The begin token, the empty prompt and `never_touch` stay exactly. Pooled text, where a
    model has it, gets a map of its own by the same system.
    """
    from efface.closed_form.many import gather, may_suffer
    from efface.closed_form.system import joint_map
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap

    many = gather(model, concepts, config)
    map_ = joint_map(many.rows, many.kept.retention, erase=many.erase, weight=many.found.weight)
    keep = config.keep or ()
    notes = many.notes() | {"may_suffer": may_suffer(many, map_, keep)}
    settings = asdict(config) | many.settings() | {"never_touch": list(config.never_touch)}
    origin = provenance(model, "joint", settings, concepts, keep, **notes)
    return TextMap.of(origin, map_.u, map_.v, None if many.pooled is None else many.pooled.map())


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit by the same weight, of the states that attacks found."""
    from efface.closed_form.extend import compose_before
    from efface.closed_form.many import extension
    from efface.closed_form.system import joint_map

    options = config_from(Config, erasure.provenance.config)
    found = (evidence.concept, evidence.text, evidence.anchors)
    more = extension(model, erasure.provenance, options, found)
    edit = joint_map(more.rows, more.kept.retention, erase=1.0, weight=options.weight)
    if more.pooled is None:
        return compose_before(erasure, edit)
    weight = erasure.provenance.config["pooled_weight"]
    return compose_before(erasure, edit, joint_map(*more.pooled, erase=1.0, weight=weight))
