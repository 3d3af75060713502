"""Draw prompts of the canvas and let its judges say what they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from efface.concepts.concept import Concept
from efface.concepts.sample import Sample
from efface.erasures import Erasure
from efface.families.base import Side
from efface.judges import embedded_judge
from efface.judges.criterion import Verdict, verdicts_on
from efface.models.model import Model
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption


@dataclass(frozen=True)
class JudgedImages:
    """Pictures of (object, style) pairs and what the judges say of them, pair by pair, seeds within a pair."""

    samples: tuple[Sample, ...]
    """One a picture; it should show an object and a style, in this order."""
    images: tuple[Image.Image, ...]
    objects: tuple[Verdict, ...]
    """The object judge's verdicts on the object that each picture should show."""
    styles: tuple[Verdict, ...]
    """The style judge's verdicts on the style that each picture should show."""

    def image(self, pair: tuple[str, str], index: int) -> Image.Image:
        """The picture of a pair with the seed of that index."""
        return [p for p, s in zip(self.images, self.samples, strict=True) if s.shows == pair][index]


class Rates(NamedTuple):
    """Shares of pictures, 0 to 1."""

    erased: float
    """Pictures of the concept that show it."""
    others: float
    """Pictures of other concepts of its kind that show theirs."""
    styles: float
    """Pictures whose other domain (the style, or the object when a style is erased) is right."""
    intact: float
    """Intact pictures among those of the erased concept, by the object judge."""


def draw_and_judge(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    *,
    seeds: Iterable[int],
    batch: int | None = None,
    side: Side = None,
) -> JudgedImages:
    """Draw "a OBJECT in STYLE style" for every pair and seed with the standard solver, and judge the pictures."""
    seeds = list(seeds)
    samples = tuple(Sample(caption(*pair), seed, shows=pair) for pair in pairs for seed in seeds)
    images = model.draw(
        [s.prompt for s in samples],
        seeds=[s.seed for s in samples],
        steps=STEPS,
        guidance=GUIDANCE,
        batch=batch,
        side=side,
    )
    return JudgedImages(
        samples=samples,
        images=tuple(images),
        objects=tuple(verdicts_on(embedded_judge("emoji", "object"), images, [s.shows[0] for s in samples])),
        styles=tuple(verdicts_on(embedded_judge("emoji", "style"), images, [s.shows[1] for s in samples])),
    )


def rates(judged: JudgedImages, concept: str) -> Rates:
    """Rates for an erased object or style among the pictures drawn, by the criterion."""
    is_object = concept in BENCHMARK
    own, other = (judged.objects, judged.styles) if is_object else (judged.styles, judged.objects)
    side = 0 if is_object else 1
    erased = [i for i, sample in enumerate(judged.samples) if sample.shows[side] == concept]
    others = [i for i, sample in enumerate(judged.samples) if sample.shows[side] != concept]
    return Rates(
        erased=share(own[i].shown for i in erased),
        others=share(own[i].shown for i in others),
        styles=share(other[i].shown for i in others),
        intact=share(judged.objects[i].intact for i in erased),
    )


def share(values: Iterable[bool]) -> float:
    """Share of true values; 0 of nothing."""
    values = list(values)
    return sum(values) / max(1, len(values))


def retained_rate(model: Model, erasure: Erasure, concept: Concept) -> float | None:
    """IRA of an erasure over every other concept of the kind in a few pictures; None for what is not of the benchmark."""
    if concept.name not in (*BENCHMARK, *STYLES):
        return None
    if concept.name in BENCHMARK:
        pairs = [(name, STYLES[(i + k) % len(STYLES)]) for k in (0, 4) for i, name in enumerate(BENCHMARK)]
    else:
        pairs = [(BENCHMARK[(5 * i + k) % len(BENCHMARK)], style) for k in range(5) for i, style in enumerate(STYLES)]
    with erasure.attached(model.pipeline):
        return rates(draw_and_judge(model, pairs, seeds=range(2)), concept.name).others
