"""OCE: the values of a concept are turned away by an orthogonal matrix, a baseline (ICML 2026, arXiv 2605.28902)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.families import Projection
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(RetainingRows):
    """Options of OCE; a None stands for its authors' value for the concepts (`paper_settings`)."""

    rows: Rows = "last"
    """Which token positions are erased (authors' code: the concept's last token)."""
    keep_rows: Rows = "last"
    """Which positions of the retained prompts count."""
    erase_weight: float | None = None
    """e, weight of turning the concept's values away."""
    general_weight: float | None = None
    """p_g, weight of the general moment: of the text encoder's own words (`efface prior`) where they were read, otherwise of
    the retained prompts. Its authors take captions of COCO."""
    preserve_weight: float | None = None
    """p_n, weight of the retained rows."""
    ridge: float = 10.0
    """λ, weight of leaving the matrices as they are (authors' code: 10)."""
    matrices: Literal["values", "all"] = "values"
    """The value matrices (authors' code), or keys too (paper); where a model has one entry for all, that is edited."""

    def __post_init__(self) -> None:
        for name in ("erase_weight", "general_weight", "preserve_weight", "ridge"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value}; expected a finite number of at least 0.")


PUBLISHED: Mapping[str, Any] = {}
"""The defaults are those of its public code, but for the general moment's captions and the sign that it turns wrongly."""
TEXT_ONLY = True
"""It reads nothing of a model but its text encoders and the matrices that read text."""


class PaperSettings(NamedTuple):
    """Settings of its public code, by kind of concept."""

    erase_weight: float
    general_weight: float
    preserve_weight: float


def paper_settings(concepts: Sequence[Concept]) -> PaperSettings:
    """The settings for these concepts."""
    kinds = {concept.kind for concept in concepts}
    if kinds & {"explicit", "abstract"}:
        return PaperSettings(3000, 20, 0)
    if kinds == {"style"}:
        return PaperSettings(500, 10, 1)
    if kinds == {"person"}:
        return PaperSettings(800, 70, 2) if len(concepts) > 50 else PaperSettings(3500, 50, 5)
    return PaperSettings(2000, 10, 0)


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with W' = Q W, Q one orthogonal matrix for each W; no map of text does the same. `judge` is not used.

    Beyond the energy that is preserved along a direction, Q reflects it: the concept's values are negated, and nothing leads
    them to the anchor's.
    """
    import torch

    from efface.closed_form.prior import cached_prior
    from efface.closed_form.ridge import gram_of
    from efface.closed_form.rotation import factors, preserved_energy, rotation
    from efface.closed_form.rows import concept_rows, retained_rows, text_width
    from efface.erasures.delta import weight_delta
    from efface.erasures.provenance import provenance
    from efface.models.precision import on_cpu

    paper = paper_settings(concepts)
    chosen = {
        name: value if (value := getattr(config, name)) is not None else getattr(paper, name) for name in paper._fields
    }
    pairs = [concept_rows(model, concept, config.rows) for concept in concepts]
    c = torch.cat([on_cpu(rows) for rows, _ in pairs])
    t = torch.cat([on_cpu(rows) for _, rows in pairs])
    keep = config.keep or ()
    retained = gram_of(retained_rows(model, keep, config.keep_rows), text_width(model))
    prior = cached_prior(model)
    general = _mean_of(_content(model, keep) if prior is None else prior.states(concepts))
    weights = {"p_g": chosen["general_weight"], "p_n": chosen["preserve_weight"], "ridge": config.ridge}
    deltas = {}
    for projection in _projections(model, config.matrices):
        w = on_cpu(projection.weight())
        energy = preserved_energy(w, general=general, retained=retained, **weights)
        q = rotation(w, c, t, energy, chosen["erase_weight"])
        name = f"{projection.name}.weight"
        thin = factors(q, w)
        deltas |= {name: q @ w - w} if thin is None else {f"{name}.up": thin[0], f"{name}.down": thin[1]}
    origin = provenance(model, "oce", asdict(config) | chosen, concepts, keep, prior=prior is not None)
    return weight_delta(origin, deltas)


def _projections(model: Model, matrices: str) -> list[Projection]:
    """The matrices to edit."""
    everything = model.text_projections()
    values = [projection for projection in everything if projection.name.endswith("to_v")]
    return values if matrices == "values" and values else everything


def _mean_of(states: Tensor) -> Tensor:
    """Mean second moment (width width) of text states (rows width), in float64."""
    from efface.closed_form.ridge import gram_of

    return gram_of(states.split(8192), states.shape[1]) / max(1, len(states))


def _content(model: Model, prompts: Sequence[str]) -> Tensor:
    """States of the empty prompt and of others, up to the end of each (rows width)."""
    text = model.encode(["", *prompts])
    return model.projection_inputs(text).detach().float().cpu()[text.mask.cpu()]
