"""Draw prompts of the canvas and let its judges say what they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from efface.concepts.concept import Concept
from efface.erasures import Erasure
from efface.judges import embedded_judge
from efface.models.model import Model
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption, thing


@dataclass(frozen=True)
class Drawn:
    """Pictures of (object, style) pairs and what the judges say of them, pair by pair, seeds within a pair."""

    pairs: tuple[tuple[str, str], ...]
    """One entry a picture."""
    pictures: tuple[Image.Image, ...]
    objects: tuple[str, ...]
    """The object judge's labels."""
    styles: tuple[str, ...]
    """The style judge's labels."""
    intact: tuple[bool, ...]
    """Whether the object judge takes a picture for a whole drawing."""

    def picture(self, pair: tuple[str, str], index: int) -> Image.Image:
        """The picture of a pair with the seed of that index."""
        return [p for p, q in zip(self.pictures, self.pairs, strict=True) if q == pair][index]


class Rates(NamedTuple):
    """Shares of pictures, 0 to 1."""

    erased: float
    """Pictures of the concept that show it."""
    others: float
    """Pictures of other concepts of its kind that show theirs."""
    styles: float
    """Pictures whose other domain (the style, or the object when a style is erased) is right."""
    intact: float
    """Intact pictures among those of the erased concept."""


def drawn(model: Model, pairs: Sequence[tuple[str, str]], *, seeds: Iterable[int], batch: int = 32) -> Drawn:
    """Draw "a OBJECT in STYLE style" for every pair and seed with the standard solver, and judge the pictures."""
    work = [(pair, seed) for pair in pairs for seed in seeds]
    pictures = model.draw(
        [caption(*pair) for pair, _ in work], seeds=[s for _, s in work], steps=STEPS, guidance=GUIDANCE, batch=batch
    )
    by_object, by_style = embedded_judge("emoji", "object")(pictures), embedded_judge("emoji", "style")(pictures)
    intact = tuple(bool(i) for i in by_object.intact)
    return Drawn(tuple(pair for pair, _ in work), tuple(pictures), by_object.labels, by_style.labels, intact)


def rates(found: Drawn, concept: str) -> Rates:
    """Rates for an erased object or style among the pictures drawn."""
    is_object = concept in BENCHMARK
    own, cross = (found.objects, found.styles) if is_object else (found.styles, found.objects)
    side = 0 if is_object else 1
    erased = [i for i, pair in enumerate(found.pairs) if pair[side] == concept]
    others = [i for i, pair in enumerate(found.pairs) if pair[side] != concept]
    return Rates(
        erased=share(own[i] == concept for i in erased),
        others=share(own[i] == found.pairs[i][side] for i in others),
        styles=share(cross[i] == found.pairs[i][1 - side] for i in others),
        intact=share(found.intact[i] for i in erased),
    )


def share(values: Iterable[bool]) -> float:
    """Share of true values; 0 of nothing."""
    values = list(values)
    return sum(values) / max(1, len(values))


def neighbours_of(name: str, count: int) -> list[str]:
    """Other benchmark objects of the same superclass first."""
    others = [n for n in BENCHMARK if n != name]
    return sorted(others, key=lambda n: thing(n).kind != thing(name).kind)[:count]


def others_shown(model: Model, erasure: Erasure, concept: Concept) -> float | None:
    """IRA of an erasure over every other concept of the kind in a few pictures; None for what is not of the benchmark."""
    if concept.name not in (*BENCHMARK, *STYLES):
        return None
    if concept.name in BENCHMARK:
        pairs = [(name, STYLES[(i + k) % len(STYLES)]) for k in (0, 4) for i, name in enumerate(BENCHMARK)]
    else:
        pairs = [(BENCHMARK[(5 * i + k) % len(BENCHMARK)], style) for k in range(5) for i, style in enumerate(STYLES)]
    with erasure.attached(model.pipeline):
        return rates(drawn(model, pairs, seeds=range(2)), concept.name).others
