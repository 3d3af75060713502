"""RECE: erase, derive the embeddings that still bring the concept back, erase those too (Gong et al., ECCV 2024, arXiv 2407.12383)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from efface.closed_form.paper_settings import (
    PaperSettings,
    first_weight,
    neutral_counts,
    paper_settings,
    published_keep,
)
from efface.concepts.concept import Concept
from efface.erasers.base import RetainingRows, Rows, check_ridges, check_weights
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.closed_form.blocks import Block
    from efface.closed_form.maps import LowRankMap
    from efface.closed_form.ridge import RowPairs
    from efface.closed_form.weight import Balance
    from efface.erasers.base import Evidence, Validation
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.models.model import Model

Derivation = Literal["regzero", "standard", "1st", "2nd", "both"]


@dataclass(frozen=True)
class Config(RetainingRows):
    """Options of RECE; a None stands for the paper's value for the concept (its appendix, see `paper_settings`)."""

    proposes_blank: ClassVar[bool] = False  # `retained` is an option of its own

    rows: Rows = "all"
    """Which token positions are edited (paper: all, padding included)."""
    derivation: Derivation = "regzero"
    """How the returning embedding is derived: the paper's regularised form, its variants, or its closed-form surrogates."""
    regulariser: float | None = None
    """λ_r, bounds the norm of the derived embedding and with it the damage to other concepts."""
    epochs: int | None = None
    """Rounds of deriving and erasing after the UCE stage."""
    erase_weight: float = 1.0
    """e, weight of the concept's rows (paper: 1)."""
    preserve_weight: float | None = None
    """p, weight of the retained rows in RECE's epochs (paper: 0.1); found by default, so that an epoch moves them little."""
    ridge: float = 0.1
    """λ, weight of leaving the matrices as they are, above 0 (paper: 0.1)."""
    first_rows: Rows | None = None
    """Which token positions the UCE stage edits that comes first; those of `rows` by default (authors' code: subject)."""
    first_preserve_weight: float | None = None
    """p of the UCE stage (paper: 1); found by default, as large as lets the concepts go. Of summed moments None is the
    authors' max(0.1, 1/number of retained prompts, to three decimals)."""
    first_ridge: float | None = None
    """λ of the UCE stage; that of the epochs by default (authors' code: 0.5)."""
    retained: str | None = None
    """The neutral prompt that is retained besides (paper: a blank; the empty prompt for styles and objects)."""
    neutral_count: Literal["concepts", "published"] = "concepts"
    """How often the neutral prompt counts: once for each of the `concepts`; `published`: once, but in the epochs of explicit and
    abstract concepts once for each of them (authors' code)."""
    keep: tuple[str, ...] | None = None
    """Further retained prompts, or on the command line a .txt file with one a line or a .csv file with a column `prompt` (the
    public list of artists: artists1734_prompts.csv:artist); by default what stands beside the concept is proposed."""
    aliases: bool = False
    """Whether the concept's aliases are erased with it."""
    stop_rate: float = 0.0
    """With a judge: stop at the first epoch after which at most this share of validation pictures shows the concept."""
    moments: Literal["mean", "sum"] = "mean"
    """`mean` gives what is erased and what is retained the same energy at p = 1, and λ once a concept, so that one setting
    serves one concept and forty, and an epoch leaves the concept's own rows where the stage before it put them; `sum` is
    the paper's, whose p loses against the number of concepts."""

    def __post_init__(self) -> None:
        names = ("preserve_weight", "first_preserve_weight", "regulariser")
        optional = [name for name in names if getattr(self, name) is not None]
        check_weights(self, "erase_weight", "stop_rate", *optional)
        check_ridges(self, "ridge", *(() if self.first_ridge is None else ("first_ridge",)))
        if self.epochs is not None and self.epochs < 0:
            raise UsageError(f"epochs is {self.epochs}; expected at least 0 (0 is UCE alone).")

    @property
    def asks_judge(self) -> bool:
        """Always: it says which epoch is the best."""
        return True


PUBLISHED: Mapping[str, Any] = {
    "first_rows": "subject",
    "moments": "sum",
    "preserve_weight": 0.1,
    "first_preserve_weight": None,
    "first_ridge": 0.5,
    "neutral_count": "published",
    "keep": published_keep,
}
"""The UCE stage of the authors' code, how often it counts the neutral prompt, and what it retains of artists."""
EXTENDS = "textmap"
"""Kind of the erasures that hardening can add to."""
TEXT_ONLY = True
"""Without a judge nothing is read but text encoders and the matrices that read text."""


def settings_for(config: Config, concepts: Sequence[Concept]) -> PaperSettings:
    """The options that were given, and the paper's for these concepts where none were."""
    paper = paper_settings(concepts)
    given = {name: getattr(config, name) for name in PaperSettings._fields}
    return paper._replace(**{name: value for name, value in given.items() if value is not None})


def settle(config: Config, concepts: Sequence[Concept]) -> Config:
    """The options with the paper's λ_r, epochs and neutral prompt for these concepts where none were given."""
    return replace(config, **settings_for(config, concepts)._asdict())


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Validation pictures of all epochs and of the first stage; none without a judge."""
    if not judged:
        return 0
    from efface.erasers.validation import SEEDS

    return (
        (settings_for(config, concepts).epochs + 1) * len(SEEDS) * sum(len(concept.prompts()) for concept in concepts)
    )


def erase(
    model: Model, concepts: Sequence[Concept], config: Config, judge: Judge | Validation | None = None
) -> Erasure:
    """UCE first; then in every epoch derive the embeddings c' that still give the old keys and values, and edit c' → t.

    All concepts are edited jointly. With W the original matrices, S = Σ WᵀW and W' = W M the current ones, the whole
    method happens on width x width matrices: M ← M · M_edit(c').

    Args:
        judge: says after each epoch what validation pictures show; the epoch with the smallest share of the concept is
            kept. Without one all epochs are run.
    """
    from efface.closed_form.blocks import Collected
    from efface.closed_form.gram import key_value_gram_of
    from efface.closed_form.ridge import RowPairs
    from efface.closed_form.rows import concept_rows, retained_grams, with_aliases
    from efface.closed_form.weight import Balance, epoch_balance
    from efface.erasers.validation import validation_of
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap
    from efface.models.sampling import sampling

    shows = validation_of(model, concepts, judge, **sampling(model.pipeline, None, None))
    settings = settings_for(config, concepts)
    config = replace(config, **settings._asdict())
    everyone = with_aliases(concepts, config.aliases)
    counts = neutral_counts(everyone, config.neutral_count)
    grams = retained_grams(model, config.retained or "", config.keep or (), config.keep_rows, counts)
    rows = Collected(concept_rows(model, c, config.rows) for c in everyone)
    pairs = RowPairs.gather(rows)
    map_, first = _first_stage(model, everyone, Gathered(rows.blocks, pairs), grams.first, config)
    later = Balance(preserve=0.1, ridge=config.ridge, unit=1.0, found=None)
    retained = grams.epochs
    if config.moments == "mean":
        # An epoch leaves the concept's own rows where the stage before it put them.
        retained = retained + pairs.cc / first.unit
        later = first._replace(ridge=config.ridge * len(everyone), found=None)
    if config.preserve_weight is not None:
        later = later._replace(preserve=config.preserve_weight * later.unit)
    s = key_value_gram_of(model) if settings.epochs else None
    best = map_
    best_rate = float("inf")
    rates: list[float] = []
    for epoch in range(settings.epochs + 1):
        if epoch and s is not None:
            found = derive(pairs, map_, s, settings.regulariser, config.derivation)
            if config.moments == "mean" and config.preserve_weight is None:
                later = epoch_balance(found, map_, s, retained, later, config.erase_weight, distance=pairs)
            map_ = map_.then(
                found.edit(retained, erase=config.erase_weight, preserve=later.preserve, ridge=later.ridge)
            )
        if shows is None:
            best = map_
            continue
        origin = provenance(model, "rece", asdict(config), concepts, config.keep or ())
        rates.append(shows(TextMap.of(origin, map_.u, map_.v)))
        if rates[-1] < best_rate:
            best = map_
            best_rate = rates[-1]
        if rates[-1] <= config.stop_rate:
            break
    weights = {"first_preserve_weight": first.weight, "preserve_weight": later.weight}
    notes = first.notes() | ({"judged": rates} if judge else {})
    origin = provenance(model, "rece", asdict(config) | weights, concepts, config.keep or (), **notes)
    return TextMap.of(origin, best.u, best.v)


class Gathered(NamedTuple):
    """Rows of the concepts."""

    blocks: list[Block]
    """Each concept's, reduced."""
    pairs: RowPairs


def _first_stage(
    model: Model, concepts: Sequence[Concept], gathered: Gathered, retained: Tensor, config: Config
) -> tuple[LowRankMap, Balance]:
    """The UCE stage, with the rows and weights of its own, and those weights; `gathered` are the rows of the epochs."""
    from efface.closed_form.blocks import Collected
    from efface.closed_form.gram import key_value_gram_of
    from efface.closed_form.ridge import RowPairs
    from efface.closed_form.rows import concept_rows
    from efface.closed_form.weight import Balance, balance

    blocks, pairs = gathered
    rows = config.first_rows or config.rows
    if rows != config.rows:
        own = Collected(concept_rows(model, c, rows) for c in concepts)
        pairs = RowPairs.gather(own)
        blocks = own.blocks
    ridge = config.ridge if config.first_ridge is None else config.first_ridge
    weight = config.first_preserve_weight
    if config.moments == "sum":
        weight = first_weight(1 + len(config.keep or ())) if weight is None else weight
        weights = Balance(preserve=weight, ridge=ridge, unit=1.0, found=None)
    else:
        weights = balance(
            blocks, pairs, retained, lambda: key_value_gram_of(model),
            erase=config.erase_weight, ridge=ridge, weight=weight,
        )  # fmt: skip
    map_ = pairs.edit(retained, erase=config.erase_weight, preserve=weights.preserve, ridge=weights.ridge)
    return map_, weights


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit by the same weights, of the states that attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram
    from efface.closed_form.ridge import gram_of
    from efface.closed_form.rows import retained_rows, text_width
    from efface.closed_form.weight import stored_balance

    origin = erasure.provenance
    config = origin.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config.get("rows", "all"))
    retained = retained_gram(model, origin)
    neutral = retained_rows(model, [config["retained"]], config.get("keep_rows", "all"))
    count = neutral_counts(origin.concepts, config.get("neutral_count", "concepts"))[1]
    retained += gram_of(neutral, text_width(model)) * count
    weights = stored_balance(config, pairs, retained)
    edit = pairs.edit(retained, erase=config["erase_weight"], preserve=weights.preserve, ridge=weights.ridge)
    return compose_before(erasure, edit)


def derive(pairs: RowPairs, map_: LowRankMap, s: Tensor, lambda_r: float, form: Derivation) -> RowPairs:
    """The embeddings c' that give the edited matrices W M the keys and values W c (paper, eq. 9 and appendix).

    ========  ===========================================================  ========================================
    regzero   c' = (λ_r I + MᵀSM)⁻¹ MᵀS c                                  minimises Σ|W M c' − W c|² + λ_r |c'|²
    standard  c' = (λ_r I + MᵀSM)⁻¹ (MᵀS c + λ_r t)                        regularised towards the target t
    1st       c' = ((1 + λ_r) MᵀSM)⁻¹ (MᵀS + λ_r MᵀSM) c                   regularised in the space of values
    2nd       c' = (λ_r I + MᵀSM)⁻¹ (λ_r I + MᵀS) c                        regularised towards c itself
    both      c' = (λ_r I + (1 + λ_r) MᵀSM)⁻¹ (λ_r I + MᵀS + λ_r MᵀSM) c
    ========  ===========================================================  ========================================

    Where the text states are wider than what reads them, S has no inverse, and `1st` is taken in an orthonormal basis of the
    rows of the matrices, where it has one.
    """
    import torch

    from efface.closed_form.ridge import cholesky, warn_of_condition
    from efface.closed_form.row_basis import derive_in_basis, row_basis

    if form == "1st":
        basis = row_basis(s)
        if basis.shape[1] < len(s):
            return derive_in_basis(pairs, map_, s, basis, lambda_r)
        # (MᵀSM)⁻¹MᵀS = M⁻¹ where S can be inverted; solving with M itself squares no condition number.
        warn_of_condition(map_.congruent(s), "MᵀSM, which the surrogate '1st' inverts: use 'regzero'")
        m = torch.linalg.lu_factor(map_.apply(torch.eye(len(s), dtype=s.dtype)))
        return pairs.derive(lambda c, t: (torch.linalg.lu_solve(*m, c.contiguous()) + lambda_r * c) / (1 + lambda_r))
    mtsm = map_.congruent(s)
    left = (1 + lambda_r) * mtsm if form == "both" else mtsm.clone()
    left.diagonal().add_(lambda_r)
    factor = cholesky(left, f"the derivation {form!r}: give a regulariser above 0")
    beside = {  # the right-hand side without MᵀS c
        "regzero": lambda c, t: 0.0,
        "standard": lambda c, t: lambda_r * t,
        "2nd": lambda c, t: lambda_r * c,
        "both": lambda c, t: lambda_r * (c + mtsm @ c),
    }[form]
    return pairs.derive(lambda c, t: torch.cholesky_solve(map_.apply_transposed(s @ c) + beside(c, t), factor))
