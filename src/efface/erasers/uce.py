"""UCE: unified concept editing, a ridge regression on the text states (Gandikota et al., WACV 2024, arXiv 2308.14761)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows, check_ridges, check_weights
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.closed_form.blocks import Block
    from efface.closed_form.ridge import RowPairs
    from efface.closed_form.weight import Balance
    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(RetainingRows):
    """Options of UCE; defaults are those of its authors' current code, but for `keep_rows` (there: the last token)."""

    rows: Rows | None = None
    """Which token positions are edited: the concept's last token (today's code, and the default), from there to the end (paper,
    and always with the tensor target), or all."""
    target: Literal["replace", "tensor"] = "replace"
    """`replace` gives the concept the anchor's values; `tensor` (older code) gives each matrix the anchor's values
    without their component along the old ones, and returns a weight delta instead of a text map."""
    erase_weight: float = 1.0
    """e, weight of the concept's rows (paper: 1)."""
    preserve_weight: float | None = None
    """p, weight of the retained rows (paper: 1); found by default, as large as lets the concepts go."""
    ridge: float = 0.5
    """λ, weight of leaving the matrices as they are, above 0 (authors' code: 0.5)."""
    aliases: bool = False
    """Whether the concept's aliases are erased with it."""
    moments: Literal["mean", "sum"] = "mean"
    """`mean` gives what is erased and what is retained the same energy at p = 1, and λ once a concept, so that one setting
    serves one concept and forty; `sum` is the paper's, whose p loses against the number of concepts."""

    def __post_init__(self) -> None:
        check_weights(self, "erase_weight", *(() if self.preserve_weight is None else ("preserve_weight",)))
        check_ridges(self, "ridge")
        if self.target == "tensor" and self.rows not in (None, "subject"):
            raise UsageError(
                f"rows is {self.rows!r}; expected 'subject' with the tensor target, which is defined by the values of all "
                "positions from the last subject token on: leave rows out."
            )

    @property
    def edited(self) -> Rows:
        """Which token positions are edited."""
        return self.rows or ("subject" if self.target == "tensor" else "last")


PUBLISHED: Mapping[str, Any] = {"keep_rows": "last", "moments": "sum", "preserve_weight": 1.0}
"""Retained prompts count by their last token, as concepts do; their moments are summed, at a weight that nobody searches."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""Without a judge nothing is read but text encoders and the matrices that read text."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """None are drawn."""
    return 0


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """Erase concepts with one ridge edit.

    The replace target has the closed form of `RowPairs.edit` and yields a TextMap; the tensor target differs from matrix
    to matrix and yields a WeightDelta. `judge` is not used.
    """
    from efface.closed_form.blocks import Collected
    from efface.closed_form.ridge import RowPairs, gram_of
    from efface.closed_form.rows import concept_rows, retained_rows, text_width, with_aliases
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap

    width = text_width(model)
    retained = gram_of(retained_rows(model, config.keep or (), config.keep_rows), width)
    rows = Collected(concept_rows(model, c, config.edited) for c in with_aliases(concepts, config.aliases))
    kept = list(rows) if config.target == "tensor" else None
    pairs = RowPairs.gather(rows if kept is None else kept)
    weights = _weights(model, config, rows.blocks, pairs, retained)
    settings = asdict(config) | {"rows": config.edited, "preserve_weight": weights.weight}
    origin = provenance(model, "uce", settings, concepts, config.keep or (), **weights.notes())
    if kept is not None:
        return _tensor_delta(model, origin, kept, retained, config, weights)
    edit = pairs.edit(retained, erase=config.erase_weight, preserve=weights.preserve, ridge=weights.ridge)
    return TextMap.of(origin, edit.u, edit.v)


def _weights(model: Model, config: Config, blocks: list[Block], pairs: RowPairs, retained: Tensor) -> Balance:
    """The weights of the edit: as published, or of averaged moments."""
    from efface.closed_form.gram import key_value_gram_of
    from efface.closed_form.weight import Balance, balance

    if config.moments == "sum":
        weight = 1.0 if config.preserve_weight is None else config.preserve_weight
        return Balance(preserve=weight, ridge=config.ridge, unit=1.0, found=None)
    return balance(
        blocks, pairs, retained, lambda: key_value_gram_of(model),
        erase=config.erase_weight, ridge=config.ridge, weight=config.preserve_weight,
    )  # fmt: skip


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit by the same weights, of the states that attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram
    from efface.closed_form.weight import stored_balance

    config = erasure.provenance.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config.get("rows", "all"))
    retained = retained_gram(model, erasure.provenance)
    weights = stored_balance(config, pairs, retained)
    edit = pairs.edit(retained, erase=config["erase_weight"], preserve=weights.preserve, ridge=weights.ridge)
    return compose_before(erasure, edit)


def _tensor_delta(
    model: Model,
    origin: object,
    pairs: list[tuple[Tensor, Tensor]],
    retained: Tensor,
    config: Config,
    weights: Balance,
) -> Erasure:
    """The older target, matrix by matrix: v* = v_t − ⟨v_t, u⟩ u, where u is the concept's whole matrix of old values
    divided by its norm; then ΔW = e Σ (v* − v_c) cᵀ B⁻¹."""
    import torch

    from efface.closed_form.ridge import cholesky
    from efface.erasures.delta import weight_delta
    from efface.models.precision import on_cpu

    pairs = [(on_cpu(concept), on_cpu(target)) for concept, target in pairs]
    c = torch.cat([concept for concept, _ in pairs])
    system = weights.ridge * torch.eye(c.shape[1], dtype=torch.float64)
    system += config.erase_weight * c.T @ c + weights.preserve * retained
    down = torch.cholesky_solve(c.T, cholesky(system, "the edit's system: give a ridge weight above 0")).T
    deltas = {}
    for projection in model.text_projections():
        weight = on_cpu(projection.weight())
        changes = []
        for concept, target in pairs:
            old, new = concept @ weight.T, target @ weight.T
            direction = old / old.norm()
            changes.append(new - (new * direction).sum() * direction - old)
        up = config.erase_weight * torch.cat(changes).T
        deltas |= {f"{projection.name}.weight.up": up, f"{projection.name}.weight.down": down}
    return weight_delta(origin, deltas)
