"""Find how many latents and how strong a factor a concept needs, from at most 200 pictures instead of hundreds of thousands.

The paper sweeps 3 counts x 7 factors on 980 pictures each for every object. Here only pictures of the concepts and of
those others that share their latents most are drawn; and since a stronger factor removes more and damages more, the
least factor that removes a concept is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.judges import Judge
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.sae.statistics import Statistics, select

T = TypeVar("T")

COUNTS = (1, 2, 4)
"""Latents at each level that are tried."""
FACTORS = (0.0, -1.0, -2.0, -5.0, -10.0, -20.0, -40.0)
"""γ, from the weakest to the strongest; 0 switches a latent off."""
PICTURES = 200
"""At most so many are drawn."""


@dataclass(frozen=True)
class Trial:
    """One setting, and what it did."""

    count: int
    gamma: float
    erased: float
    """Share of the concept's pictures that no longer show it."""
    kept: float
    """Share of the other pictures that still show what they should."""

    @property
    def value(self) -> float:
        """The paper's objective, (UA + IRA)/2."""
        return (self.erased + self.kept) / 2


def calibrated(
    model: Model,
    concepts: Sequence[Concept],
    config: Any,
    measured: Sequence[Statistics],
    made: Callable[[Any], Any],
    judge: Judge | None,
) -> tuple[Any, list[dict[str, float]]]:
    """The best configuration for the concepts, and every setting that was tried.

    Args:
        model: the unerased model.
        concepts: what is being erased, all by one setting.
        config: SAeUron's options; `count` and `gamma` are replaced.
        measured: statistics of every site; they name the others that suffer most.
        made: from options to an erasure.
        judge: its classes must name the concepts and the others.

    Raises:
        UsageError: there is no judge, or it does not know a concept.
    """
    names = [c.name for c in concepts]
    if judge is None or not set(names) <= set(judge.classes):
        raise UsageError(
            f"calibration needs a judge whose classes name {', '.join(map(repr, names))}: give one (--judge)."
        )
    trials: list[Trial] = []
    own = [(c.name, prompt) for c in concepts for prompt in c.prompts()]
    others = [(name, prompt) for name in at_risk(measured, names) for prompt in concepts[0].prompts(name)]
    each = PICTURES // (len(COUNTS) * 3 + 1)  # bisection of seven factors takes three trials
    work = spread(own, (each + 1) // 2) + spread(others, each // 2)

    def labels() -> list[str]:
        seeds = range(20_000, 20_000 + len(work))
        return list(judge(model.draw([p for _, p in work], seeds=seeds, **sampling(model.pipeline, None, None))).labels)

    before = labels()
    able = [name == label or name in names for label, (name, _) in zip(before, work, strict=True)]

    def trial(count: int, gamma: float) -> Trial:
        with made(replace(config, count=count, gamma=gamma)).attached(model.pipeline):
            found = list(zip(labels(), work, able, strict=True))
        gone = [label != name for label, (name, _), _ in found if name in names]
        right = [label == name for label, (name, _), fit in found if name not in names and fit]
        trials.append(Trial(count, gamma, sum(gone) / len(gone), sum(right) / max(1, len(right))))
        return trials[-1]

    for count in COUNTS:
        low, high = 0, len(FACTORS) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if trial(count, FACTORS[middle]).erased >= 1 else (middle + 1, high)
    best = max(trials, key=lambda t: (t.value, -t.count, t.gamma))
    curve = [{"count": t.count, "gamma": t.gamma, "erased": t.erased, "kept": t.kept} for t in trials]
    return replace(config, count=best.count, gamma=best.gamma, calibrate=False), curve


def at_risk(measured: Sequence[Statistics], names: Sequence[str], count: int = 6) -> list[str]:
    """The other concepts of the same kind for which the chosen latents are most active, over all sites."""
    first = measured[0]
    kind = first.kinds[first.concepts.index(names[0])]
    others = [n for n, k in zip(first.concepts, first.kinds, strict=True) if k == kind and n not in names]

    def activity(of: str) -> float:
        chosen = [(found, select(found.scores(name), max(COUNTS)).float()) for found in measured for name in names]
        return sum(float((found.of(of) * mask).sum()) for found, mask in chosen)

    return sorted(others, key=lambda name: -activity(name))[:count]


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items evenly spaced over all, repeated where there are fewer."""
    return [items[i * len(items) // count] if count < len(items) else items[i % len(items)] for i in range(count)]
