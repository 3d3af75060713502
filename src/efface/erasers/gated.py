"""Gated: the joint map behind gates, so that a prompt which names nothing that is erased stays bit for bit as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Listed, config_from
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(Listed):
    """Options of the gated map."""

    margin: float = 0.05
    """A way of naming a concept is refused where its gate's scores are no further apart than this from all that is
    retained."""
    union: bool = False
    """Whether any open gate brings the map of all concepts: a little more damage in such prompts, and a certificate that
    covers every state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -2 <= self.margin < 2:
            raise UsageError(f"margin is {self.margin}; expected a difference of cosines, from -2 to 2.")


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are its only settings."""
EXTENDS = "gated-map"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""It reads nothing of a model but its text encoders and the matrices that read text."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase all concepts, each behind gates of its own; `judge` is not used.

    Raises:
        EffaceError: a concept cannot be told from what is retained.
    """
    from efface.closed_form.gates import calibrate
    from efface.closed_form.many import gather
    from efface.closed_form.pooled import map_rows
    from efface.closed_form.retention import near_rows, negatives
    from efface.concepts.retained import kin
    from efface.erasures.gated import GatedMap
    from efface.erasures.provenance import provenance

    many = gather(model, concepts, config)
    others = negatives(model, concepts, many.kept, config.never_touch)
    akin = [near_rows(model, [prompt for prompt in kin(concepts) if not model.truncated(prompt)]).states]
    found = calibrate(many, concepts, others, config.margin, akin)
    rows = map_rows(many.rows, many.kept.retention, many.found.weight)
    refused = [f"{margin.label!r}" for group in found.refused for margin in group]
    notes = many.notes() | {"gates": found.table(concepts)}
    if refused:
        notes["remarks"] = [
            *notes["remarks"],
            f"no gate for {', '.join(refused[:8])}{'…' if len(refused) > 8 else ''}: what is retained is too near.",
        ]
    settings = asdict(config) | many.settings() | {"never_touch": list(config.never_touch)}
    origin = provenance(model, "gated", settings, concepts, config.keep or (), **notes)
    return GatedMap.of(origin, found.gates, rows, None if many.pooled is None else many.pooled.map_rows())


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with the states that attacks found as further rows of their concept, and gates that they open."""
    from efface.closed_form.gates import gates_of_states
    from efface.closed_form.many import extension
    from efface.closed_form.pooled import map_rows
    from efface.closed_form.retention import negatives
    from efface.erasures.gated import GatedMap

    if not isinstance(erasure, GatedMap):
        raise UsageError(f"an erasure of kind {erasure.kind!r} cannot be hardened by 'gated'; expected a gated map.")
    origin = erasure.provenance
    options = config_from(Config, origin.config)
    more = extension(model, origin, options, (evidence.concept, evidence.text, evidence.anchors))
    number = [concept.name for concept in origin.concepts].index(evidence.concept.name)
    states = model.projection_inputs(evidence.text).detach().float().cpu()
    others = negatives(model, origin.concepts, more.kept, options.never_touch)
    gates = gates_of_states(erasure.gates, number, [text[1:] for text in states], others, options.margin)
    rows = erasure.rows.and_more(map_rows(more.rows, more.kept.retention, options.weight).of_concept(number))
    pooled = erasure.pooled
    if pooled is not None and more.pooled is not None:
        pooled = pooled.and_more(map_rows(*more.pooled, origin.config["pooled_weight"]).of_concept(number))
    return GatedMap.of(origin, gates, rows, pooled)
