"""Find how many latents and what factor erase a concept, from at most 200 pictures instead of hundreds of thousands.

The paper sweeps 3 counts x 7 factors on 980 pictures each for every object. Here only pictures of the concepts and of
those others that share their latents most are drawn; and since a stronger factor removes more and damages more, the
least factor that removes a concept is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from efface.concepts.concept import Concept
from efface.concepts.sample import SEEDS, Sample, evenly_spaced
from efface.errors import UsageError
from efface.judges import Judge
from efface.judges.criterion import verdicts_on
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.sae.statistics import Statistics, select

COUNTS = (1, 2, 4)
"""Numbers of latents per timestep that are tried."""
FACTORS = (0.0, -1.0, -2.0, -5.0, -10.0, -20.0, -40.0)
"""Factors γ that are tried, from the weakest to the strongest; 0 switches a latent off."""
PICTURES = 200
"""Limit on the number of pictures drawn."""


@dataclass(frozen=True)
class Trial:
    """Result of one setting."""

    count: int
    gamma: float
    erased: float
    """Share of the concept's pictures that no longer show it."""
    retained: float
    """Share of the other pictures that still show what they should."""

    @property
    def value(self) -> float:
        """The paper's objective, (UA + IRA)/2."""
        return (self.erased + self.retained) / 2


def calibrate(
    model: Model,
    concepts: Sequence[Concept],
    config: Any,
    stats: Sequence[Statistics],
    erasure_with: Callable[[Any], Any],
    judge: Judge | None,
    *,
    counts: Sequence[int] = COUNTS,
) -> tuple[Any, list[dict[str, float]]]:
    """Find the best options for the concepts; returns them with the results of all trials.

    Args:
        model: the unerased model.
        concepts: concepts to erase, all with the same setting.
        config: SAeUron's options; `count` and `gamma` are replaced.
        stats: statistics of every site, which decide which other concepts are drawn.
        erasure_with: makes an erasure from options.
        judge: judge whose classes name the concepts.
        counts: numbers of latents that are tried; one where they are known beforehand.

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
    others = [(name, prompt) for name in most_affected(stats, names) for prompt in concepts[0].prompts(name)]
    each = PICTURES // (len(counts) * 3 + 1)  # bisection of seven factors takes three trials
    work = evenly_spaced(own, (each + 1) // 2, repeat=True) + evenly_spaced(others, each // 2, repeat=True)
    samples = [Sample(prompt, SEEDS.calibration + i, (name,)) for i, (name, prompt) in enumerate(work)]
    settings = sampling(model.pipeline, None, None)

    def shown() -> list[bool]:
        images = model.draw([s.prompt for s in samples], seeds=[s.seed for s in samples], checked=False, **settings)
        return [verdict.shown for verdict in verdicts_on(judge, images, [s.concept for s in samples])]

    before = shown()
    targets = [i for i, s in enumerate(samples) if s.concept in names]
    # Retention is counted over the pictures that show their concept before anything is erased.
    counted = [i for i, s in enumerate(samples) if s.concept not in names and before[i]]

    def trial(count: int, gamma: float) -> Trial:
        with erasure_with(replace(config, count=count, gamma=gamma)).attached(model.pipeline):
            after = shown()
        erased = [not after[i] for i in targets]
        retained = [after[i] for i in counted]
        result = Trial(
            count=count,
            gamma=gamma,
            erased=sum(erased) / len(erased),
            retained=sum(retained) / max(1, len(retained)),
        )
        trials.append(result)
        return result

    for count in counts:
        low = 0
        high = len(FACTORS) - 1
        while low < high:
            middle = (low + high) // 2
            if trial(count, FACTORS[middle]).erased >= 1:
                high = middle
            else:
                low = middle + 1
    best = max(trials, key=lambda t: (t.value, -t.count, t.gamma))
    curve = [{"count": t.count, "gamma": t.gamma, "erased": t.erased, "kept": t.retained} for t in trials]
    return replace(config, count=best.count, gamma=best.gamma, calibrate=False), curve


def most_affected(stats: Sequence[Statistics], names: Sequence[str], count: int = 6) -> list[str]:
    """Other concepts of the same kind on whose pictures the chosen latents are most active, over all sites."""
    first = stats[0]
    kind = first.kinds[first.concepts.index(names[0])]
    others = [n for n, k in zip(first.concepts, first.kinds, strict=True) if k == kind and n not in names]

    def activity(of: str) -> float:
        masks = [(site, select(site.scores(name), max(COUNTS)).float()) for site in stats for name in names]
        return sum(float((site.of(of) * mask).sum()) for site, mask in masks)

    return sorted(others, key=lambda name: -activity(name))[:count]
