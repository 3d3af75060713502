"""SAFREE: the tokens of a prompt that carry a concept are projected out of its subspace (Yoon et al., ICLR 2025, arXiv 2410.12761)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.erasures.guards.safree import Safree
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(Retaining):
    """Options of SAFREE; re-attention in the UNet (LRA) is left out, which the public code never runs either."""

    phrases: tuple[str, ...] | None = None
    """Texts that span the concept's subspace; by default the authors' seventeen for what is explicit, the name of a style or
    person, and for objects name, aliases and the prompts that name them."""
    alpha: float = 0.01
    """α: a token is a trigger where the prompt without it is farther from the concept by this share than without another."""
    slope: float | None = None
    """k of the sigmoid that decides for how long a prompt is changed; by default calibrated on the concept's prompts and the
    retained ones."""
    middle: float | None = None
    """t₀ of that sigmoid; by default calibrated likewise."""
    window: float = 0.2
    """Share of the schedule, by the noise level, in which a prompt is changed at most (authors: 10 of 50 steps)."""
    published_code: bool = False
    """Whether to do as the public code: id 0 in the place of a token, one step more in the window, and all phrases as a negative
    prompt beside it."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf") or not 0 < self.window <= 1:
            raise UsageError(
                f"alpha and window are {self.alpha} and {self.window}; expected at least 0, and above 0 up to 1."
            )


def _by_kind(nudity: float, artists: float) -> Any:
    """The authors' number for what is explicit, or for styles and persons, which stands for objects too."""
    return lambda concepts: nudity if any(concept.kind == "explicit" for concept in concepts) else artists


PUBLISHED: Mapping[str, Any] = {
    "slope": _by_kind(2.5, 3.5),
    "middle": _by_kind(5.333, 5.5),
    "published_code": True,
}
"""k and t₀ of the authors' scripts for nudity and for artists."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """The guard; only text is encoded, and `judge` is not used.

    Raises:
        EffaceError: the model cannot be guarded so.
    """
    from efface.concepts.guarded import subspace_phrases
    from efface.erasures.guards.negative import NegativePrompt
    from efface.erasures.guards.safree import Safree
    from efface.steering.guards import make_guard

    phrases = subspace_phrases(concepts) if config.phrases is None else config.phrases
    rule = Safree(
        phrases=phrases,
        alpha=config.alpha,
        slope=1.0 if config.slope is None else config.slope,
        middle=0.0 if config.middle is None else config.middle,
        window=config.window,
        as_published=config.published_code,
    )
    rule.require(model)
    if config.slope is None or config.middle is None:
        rule = calibrated(model, rule, concepts, config)
    rules: dict[str, Any] = {"safree": rule}
    if config.published_code:
        rules["negative-prompt"] = NegativePrompt(phrases=phrases)
    return make_guard(model, "safree", config, concepts, rules)


def calibrated(model: Model, rule: Safree, concepts: Sequence[Concept], config: Config) -> Safree:
    """The rule with t₀ half way between the mean β of the concept's prompts and of the retained ones, and k by which those have 95%
    and 5% of the window; the authors' numbers where nothing is retained."""
    import math
    from dataclasses import replace

    from efface.erasures.guards.door import Words
    from efface.erasures.guards.stream import Stream

    words, stream = Words(model), Stream(model.token_spans()[0], 0)

    def mean_beta(prompts: Sequence[str]) -> float:
        changes = [
            rule.change_of(words, stream, stream.span.ids(prompt)) for prompt in prompts if stream.span.ids(prompt)
        ]
        return sum(changes) / len(changes)

    keep = list(config.keep or ())[:64]
    published = {name: value(concepts) for name, value in PUBLISHED.items() if name in ("slope", "middle")}
    if keep:
        concept = mean_beta([prompt for c in concepts for prompt in c.prompts()][:64])
        kept = mean_beta(keep)
        apart = max(concept - kept, 1e-3)
        published = {"slope": math.log(19) / (10 * apart), "middle": 10 * (concept + kept) / 2}
    return replace(
        rule,
        slope=published["slope"] if config.slope is None else config.slope,
        middle=published["middle"] if config.middle is None else config.middle,
    )
