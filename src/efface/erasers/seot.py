"""SuppressEOT, stage 1: what a concept's tokens share with the padding after a prompt is weakened (Li et al., ICLR 2024,
arXiv 2402.05375)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(Retaining):
    """Options of SuppressEOT's soft-weighted regularisation; its optimisation at inference (stage 2) is left out."""

    phrases: tuple[str, ...] | None = None
    """Texts whose tokens are suppressed in prompts; by default names and aliases."""
    alpha: float = 1.0
    """α in s exp(−α s / s_ref), by which singular values s are weakened; negative ones strengthen."""
    reference: float | None = None
    """s_ref; by default the median, over retained prompts, of the smallest singular value of the same rows, since the authors' 1
    means another thing for states of another size."""
    start: float = 0.2
    """Share of the schedule, by the noise level, from which it acts (authors: 10 of 50 steps)."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1 or not (self.reference is None or 0 < self.reference < float("inf")):
            raise UsageError(
                f"start and reference are {self.start} and {self.reference}; expected a share below 1, and a number above 0."
            )


PUBLISHED: Mapping[str, Any] = {"reference": 1.0}
"""The authors' rule is s exp(−α s)."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """The guard; only text is encoded, and `judge` is not used.

    Raises:
        EffaceError: the model cannot be guarded so.
    """
    from efface.concepts.guarded import names_of
    from efface.erasures.guards.seot import Seot
    from efface.steering.guards import make_guard

    phrases = names_of(concepts) if config.phrases is None else config.phrases
    rule = Seot(phrases=phrases, alpha=config.alpha, reference=config.reference or 1.0, start=config.start)
    rule.require(model)
    if config.reference is None:
        from dataclasses import replace

        rule = replace(rule, reference=reference_of(model, list(config.keep or ()) or ["", *phrases]))
    return make_guard(model, "seot", config, concepts, {"seot": rule})


def reference_of(model: Model, prompts: Sequence[str]) -> float:
    """The median over prompts of the smallest singular value of a prompt's last token and what follows it."""
    import torch

    from efface.models.precision import on_cpu

    text, span = model.encode_in_float32(prompts), model.token_spans()[0]
    least = []
    for row, last in zip(text.states, text.last.tolist(), strict=True):
        stop = span.start + span.length if model.family.reads_padding else last + 1
        least.append(torch.linalg.svdvals(on_cpu(row[last:stop])).min())
    return max(float(torch.stack(least).median()), 1e-6)
