"""CRG: guidance leads away from a concept in proportion to the evidence for it in the picture, and stays as it is without
(arXiv 2606.29801, ICML 2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.erasures.guards.crg import CRG
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(Retaining):
    """Options of CRG; its formula is known from a re-implementation, not from the authors' code."""

    phrases: tuple[str, ...] | None = None
    """Texts of the concept, read as one; by default the authors of SLD's terms for what is explicit, else names and aliases."""
    precision: float = 1.0
    """K, how much a difference of predictions counts as evidence."""
    strength: float = 2.0
    """λ₀, how strongly guidance leads away."""
    threshold: float | None = None
    """τ, evidence below which a picture stays bit for bit; by default found on pictures of the concept and of what is retained."""
    images: int = 16
    """Pictures of the concept, and of what is retained, that are drawn to find τ."""
    draw_steps: int = 20
    """Sampler steps of those pictures."""
    guidance: float = 7.5
    """Guidance scale of those pictures."""

    def __post_init__(self) -> None:
        if not all(0 < value < float("inf") for value in (self.precision, self.strength)):
            raise UsageError(
                f"precision and strength are {self.precision} and {self.strength}; expected finite numbers above 0."
            )
        if min(self.images, self.draw_steps) < 1:
            raise UsageError(f"images and draw_steps are {self.images} and {self.draw_steps}; expected at least 1.")


PUBLISHED: Mapping[str, Any] = {}
"""K and λ₀ are the paper's, and τ is found in both."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures by which τ is found."""
    return 0 if config.threshold is not None else 2 * config.images


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """The guard; `judge` is not used.

    Raises:
        EffaceError: the model cannot be guarded so.
        UsageError: τ is to be found, and nothing is retained.
    """
    from efface.concepts.guarded import safety_text
    from efface.erasures.guards.crg import CRG
    from efface.steering.guards import make_guard

    rule = CRG(
        phrases=safety_text(concepts) if config.phrases is None else config.phrases,
        precision=config.precision,
        strength=config.strength,
        threshold=1e30 if config.threshold is None else config.threshold,
    )
    notes: dict[str, Any] = {}
    if config.threshold is None:
        rule, notes = calibrated(model, rule, concepts, config)
    return make_guard(model, "crg", config, concepts, {"crg": rule}, **notes)


def calibrated(model: Model, rule: CRG, concepts: Sequence[Concept], config: Config) -> tuple[CRG, dict[str, Any]]:
    """The rule with τ half way between the most evidence in pictures of what is retained and the least in those of the concept; where
    those overlap, above 95% of what is retained."""
    from dataclasses import replace

    if not config.keep:
        raise UsageError("crg finds τ on pictures of what is retained, and nothing is: name --keep, or --threshold.")
    own = evidence(model, rule, [prompt for c in concepts for prompt in c.prompts()], config)
    kept = evidence(model, rule, list(config.keep), config)
    most, least = float(kept.max()), float(own.min())
    found = {"evidence_kept": round(most, 6), "evidence_concept": round(least, 6)}
    if least > most:
        return replace(rule, threshold=(most + least) / 2), found
    remark = "pictures of the concept and of what is retained overlap in evidence: some of either will be taken for the other."
    return replace(rule, threshold=max(float(kept.quantile(0.95)), 0.0)), found | {"remarks": [remark]}


def evidence(model: Model, rule: CRG, prompts: Sequence[str], config: Config) -> Tensor:
    """The most evidence in each of some pictures (pictures,), drawn as they are."""
    import torch

    from efface.concepts.sample import evenly_spaced
    from efface.erasures.guards.output import OutputHook

    chosen = list(evenly_spaced(prompts, config.images)) or list(prompts)
    chosen = [chosen[i % len(chosen)] for i in range(config.images)]
    found: list[Tensor] = []
    (hook,) = rule.hooks(model, 1.0, {})
    assert isinstance(hook.run, OutputHook)
    handle = hook.register()
    try:
        for start in range(0, len(chosen), 8):
            part = chosen[start : start + 8]
            hook.run.picture.rows = 0  # a new picture, whatever the level
            seeds = range(start, start + len(part))
            for _ in model.denoise(model.encode(part), seeds=seeds, steps=config.draw_steps, guidance=config.guidance):
                pass
            found.append(hook.run.picture.memory["most"].float().cpu())
    finally:
        handle.remove()
    return torch.cat(found)
