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

    from efface.closed_form.maps import LowRankMap
    from efface.closed_form.ridge import RowPairs
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
    preserve_weight: float = 0.1
    """p, weight of the retained rows in RECE's epochs (paper: 0.1)."""
    ridge: float = 0.1
    """λ, weight of leaving the matrices as they are, above 0 (paper: 0.1)."""
    first_rows: Rows | None = None
    """Which token positions the UCE stage edits that comes first; those of `rows` by default (authors' code: subject)."""
    first_preserve_weight: float | None = 1.0
    """p of the UCE stage; None is the authors' max(0.1, 1/number of retained prompts, to three decimals)."""
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

    def __post_init__(self) -> None:
        optional = [name for name in ("first_preserve_weight", "regulariser") if getattr(self, name) is not None]
        check_weights(self, "erase_weight", "preserve_weight", "stop_rate", *optional)
        check_ridges(self, "ridge", *(() if self.first_ridge is None else ("first_ridge",)))
        if self.epochs is not None and self.epochs < 0:
            raise UsageError(f"epochs is {self.epochs}; expected at least 0 (0 is UCE alone).")

    @property
    def asks_judge(self) -> bool:
        """Always: it says which epoch is the best."""
        return True


PUBLISHED: Mapping[str, Any] = {
    "first_rows": "subject",
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
    from efface.closed_form.gram import key_value_gram_of
    from efface.closed_form.ridge import RowPairs
    from efface.closed_form.rows import concept_rows, with_aliases
    from efface.erasers.validation import validation_of
    from efface.erasures.provenance import provenance
    from efface.erasures.textmap import TextMap
    from efface.models.sampling import sampling

    shows = validation_of(model, concepts, judge, **sampling(model.pipeline, None, None))
    settings = settings_for(config, concepts)
    config = replace(config, **settings._asdict())
    everyone = with_aliases(concepts, config.aliases)
    grams = _retained_grams(model, everyone, config)
    pairs = RowPairs.gather(concept_rows(model, c, config.rows) for c in everyone)
    map_ = _first_stage(model, everyone, pairs, grams.first, config)

    weights = {"erase": config.erase_weight, "preserve": config.preserve_weight, "ridge": config.ridge}
    s = key_value_gram_of(model) if settings.epochs else None
    best = map_
    best_rate = float("inf")
    rates: list[float] = []
    for epoch in range(settings.epochs + 1):
        if epoch and s is not None:
            map_ = map_.then(
                derive(pairs, map_, s, settings.regulariser, config.derivation).edit(grams.epochs, **weights)
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
    notes = {"judged": rates} if judge else {}
    origin = provenance(model, "rece", asdict(config), concepts, config.keep or (), **notes)
    return TextMap.of(origin, best.u, best.v)


class RetainedGrams(NamedTuple):
    """RᵀR of what is retained (each width width)."""

    first: Tensor
    """In the UCE stage."""
    epochs: Tensor
    """In the epochs."""


def _retained_grams(model: Model, concepts: Sequence[Concept], config: Config) -> RetainedGrams:
    """The neutral prompt, as often as it counts in each stage, and the prompts of `keep`."""
    from efface.closed_form.ridge import gram_of
    from efface.closed_form.rows import retained_rows, text_width

    width = text_width(model)
    neutral = gram_of(retained_rows(model, [config.retained or ""], config.keep_rows), width)
    kept = gram_of(retained_rows(model, config.keep or (), config.keep_rows), width)
    first, epochs = neutral_counts(concepts, config.neutral_count)
    return RetainedGrams(first=first * neutral + kept, epochs=epochs * neutral + kept)


def _first_stage(
    model: Model, concepts: Sequence[Concept], pairs: RowPairs, retained: Tensor, config: Config
) -> LowRankMap:
    """The UCE stage, with the rows and weights of its own; `pairs` are the rows of the epochs."""
    from efface.closed_form.ridge import RowPairs
    from efface.closed_form.rows import concept_rows

    rows = config.first_rows or config.rows
    if rows != config.rows:
        pairs = RowPairs.gather(concept_rows(model, c, rows) for c in concepts)
    weight = config.first_preserve_weight
    if weight is None:
        weight = first_weight(1 + len(config.keep or ()))
    ridge = config.ridge if config.first_ridge is None else config.first_ridge
    return pairs.edit(retained, erase=config.erase_weight, preserve=weight, ridge=ridge)


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The erasure with one more edit by the same weights, of the states that attacks found."""
    from efface.closed_form.extend import compose_before, evidence_rows, retained_gram
    from efface.closed_form.ridge import gram_of
    from efface.closed_form.rows import retained_rows, text_width

    origin = erasure.provenance
    config = origin.config
    pairs = evidence_rows(model, evidence.concept, evidence.text, evidence.anchors, config.get("rows", "all"))
    retained = retained_gram(model, origin)
    neutral = retained_rows(model, [config["retained"]], config.get("keep_rows", "all"))
    count = neutral_counts(origin.concepts, config.get("neutral_count", "concepts"))[1]
    retained += gram_of(neutral, text_width(model)) * count
    weights = {"erase": config["erase_weight"], "preserve": config["preserve_weight"], "ridge": config["ridge"]}
    return compose_before(erasure, pairs.edit(retained, **weights))


def derive(pairs: RowPairs, map_: LowRankMap, s: Tensor, lambda_r: float, form: Derivation) -> RowPairs:
    """The embeddings c' that give the edited matrices W M the keys and values W c (paper, eq. 9 and appendix).

    ========  ===========================================================  ========================================
    regzero   c' = (λ_r I + MᵀSM)⁻¹ MᵀS c                                  minimises Σ|W M c' − W c|² + λ_r |c'|²
    standard  c' = (λ_r I + MᵀSM)⁻¹ (MᵀS c + λ_r t)                        regularised towards the target t
    1st       c' = ((1 + λ_r) MᵀSM)⁻¹ (MᵀS + λ_r MᵀSM) c                   regularised in the space of values
    2nd       c' = (λ_r I + MᵀSM)⁻¹ (λ_r I + MᵀS) c                        regularised towards c itself
    both      c' = (λ_r I + (1 + λ_r) MᵀSM)⁻¹ (λ_r I + MᵀS + λ_r MᵀSM) c
    ========  ===========================================================  ========================================
    """
    import torch

    from efface.closed_form.ridge import cholesky, warn_of_condition

    if form == "1st":
        # (MᵀSM)⁻¹MᵀS = M⁻¹ where S can be inverted; solving with M itself squares no condition number.
        cholesky(s, "S = Σ WᵀW, which the surrogate '1st' inverts: use 'regzero' on this model")
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
