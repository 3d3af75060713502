"""SPEED: an edit in the null space of what is retained, filtered to what it would move (Li et al., ICLR 2026, arXiv 2503.07392)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.closed_form.maps import LowRankMap
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(RetainingRows):
    """Options of SPEED; a None stands for its authors' value for the concepts (`paper_settings`)."""

    rows: Rows = "last"
    """Which token positions are edited (authors' code: the concept's last token)."""
    keep_rows: Rows = "last"
    """Which positions of the retained prompts count (authors' code: the last token)."""
    threshold: float | None = None
    """Eigenvalues of the retained rows' mean moment below this span the null space, in units of the mean eigenvalue (its
    code takes them as they are; on Stable Diffusion 1 that is the same)."""
    alpha: float | None = None
    """α, weight of leaving the matrices as they are."""
    soft: float | None = None
    """ℓ, how softly the begin token and the empty prompt are kept; 0 is exactly."""
    influence: bool | None = None
    """Whether only those retained rows count that the edit would move by more than the mean (IPF)."""
    matrices: Literal["all", "values"] = "all"
    """Which matrices are edited: keys and values by one text map, or the values alone (authors' code), as a weight delta."""

    def __post_init__(self) -> None:
        for name in ("threshold", "alpha", "soft"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value}; expected a finite number of at least 0.")


PUBLISHED: Mapping[str, Any] = {"matrices": "values"}
"""What its public code runs, but for the noise: its random copies of retained rows are their expectation here."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""It reads nothing of a model but its text encoders and the matrices that read text."""


class PaperSettings(NamedTuple):
    """Settings of its public code, by kind of concept."""

    threshold: float
    alpha: float
    soft: float
    influence: bool


def paper_settings(concepts: Sequence[Concept]) -> PaperSettings:
    """The settings for these concepts: explicit ones, more than ten persons, or few of anything."""
    kinds = {concept.kind for concept in concepts}
    if "explicit" in kinds:
        return PaperSettings(threshold=1e-1, alpha=0.7, soft=0.5, influence=False)
    if kinds == {"person"} and len(concepts) > 10:
        return PaperSettings(threshold=1e-4, alpha=0.05, soft=0.0, influence=False)
    return PaperSettings(threshold=1e-1, alpha=1.0, soft=0.0, influence=True)


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with W + W E, where E = D̅ P [I − Mᵢ K (KᵀP Mᵢ K + ℓ I)⁻¹ KᵀP] Mᵢ and Mᵢ = (A̅ P + α I)⁻¹ (its eq. 11).

    A̅ = CᵀC / n and D̅ = (T − C)ᵀC / n; P projects off what is retained, K holds the begin token, the empty prompt and the
    direction that the matrices hardly see, which stands for the paper's random copies (DPA). The filter is shared by all
    matrices, so that E is one map. `judge` is not used.
    """
    import torch

    from efface.closed_form.gram import key_value_gram_of
    from efface.closed_form.rows import concept_rows, retained_rows
    from efface.closed_form.speed import constraints, influential, null_projector, speed_map
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap
    from efface.models.precision import on_cpu

    paper = paper_settings(concepts)
    chosen = {
        name: value if (value := getattr(config, name)) is not None else getattr(paper, name) for name in paper._fields
    }
    pairs = [concept_rows(model, concept, config.rows) for concept in concepts]
    c = torch.cat([on_cpu(rows) for rows, _ in pairs])
    t = torch.cat([on_cpu(rows) for _, rows in pairs])
    keep = config.keep or ()
    r = torch.cat([c[:0], *(on_cpu(rows) for rows in retained_rows(model, keep, config.keep_rows))])
    s = key_value_gram_of(model)
    if chosen["influence"]:
        r = influential(r, c, t, s)
    projector = null_projector(r, chosen["threshold"])
    map_ = speed_map(c, t, projector, constraints(model, s), alpha=chosen["alpha"], soft=chosen["soft"])
    notes = {"retained_rows": len(r), "free_dimensions": round(float(projector.trace()))}
    origin = provenance(model, "speed", asdict(config) | chosen, concepts, keep, **notes)
    if config.matrices == "all":
        return TextMap.of(origin, map_.u, map_.v)
    return _values(model, origin, map_)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit by the same settings, of the states that attacks found; every retained row counts."""
    import torch

    from efface.closed_form.extend import compose_before, evidence_pairs
    from efface.closed_form.gram import key_value_gram_of
    from efface.closed_form.rows import retained_rows
    from efface.closed_form.speed import constraints, null_projector, speed_map
    from efface.models.precision import on_cpu

    config = erasure.provenance.config
    pairs = evidence_pairs(model, evidence.concept, evidence.text, evidence.anchors, config["rows"])
    c = torch.cat([on_cpu(rows) for rows, _ in pairs])
    t = torch.cat([on_cpu(rows) for _, rows in pairs])
    kept = retained_rows(model, erasure.provenance.keep, config["keep_rows"])
    projector = null_projector(torch.cat([c[:0], *(on_cpu(rows) for rows in kept)]), config["threshold"])
    k = constraints(model, key_value_gram_of(model))
    return compose_before(erasure, speed_map(c, t, projector, k, alpha=config["alpha"], soft=config["soft"]))


def _values(model: Model, origin: object, map_: LowRankMap) -> Erasure:
    """The edit of the value matrices alone: ΔW = W U Vᵀ; raises EffaceError where the model has none of its own."""
    from efface.erasures.delta import weight_delta
    from efface.models.precision import on_cpu

    values = [projection for projection in model.text_projections() if projection.name.endswith("to_v")]
    if not values:
        raise EffaceError(f"{model.family.name} has no value matrices that read text alone: use matrices='all'.")
    deltas = {}
    for projection in values:
        name = f"{projection.name}.weight"
        deltas |= {f"{name}.up": on_cpu(projection.weight()) @ map_.u, f"{name}.down": map_.v.T}
    return weight_delta(origin, deltas)
