"""What guards keep from being drawn on the embedded model, what they damage, and what they cost.

    python benchmarks/guards_quality.py -o runs/guards --plan     # rows that are missing, and minutes
    python benchmarks/guards_quality.py -o runs/guards            # all of it; goes on where it was stopped
    python benchmarks/guards_quality.py -o runs/guards --quick    # church; sld-max and crg; six prompts
    python benchmarks/guards_quality.py -o runs/guards --scales 1 2 4    # UA against damage, over the strength of each guard

A row is one guard of one concept at one scale, with a user's negative prompt or without: 20 prompts that name the concept and 40 that
do not, one seed each. UA is the share of the 20 that no longer show it, `ua_synonyms` of as many where its aliases stand for its
name; the embedded model knows aliases of a few objects only, so that it is null elsewhere. Drops are in points against the unguarded
model with the same seeds and negative prompt. `benign_identical` is the share of the 40 that are equal to the unguarded ones in every
pixel, `time_ratio` seconds of the 40 over those of the unguarded ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from efface.api.erase import erase
from efface.concepts.concept import Concept
from efface.erasers import ERASERS
from efface.erasures import Erasure
from efface.io.digest import digest_of_weights
from efface.judges import embedded_judge
from efface.judges.criterion import Verdict, verdicts_on
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "safree": ("safree", {}),
    **{f"sld-{preset}": ("sld", {"preset": preset}) for preset in ("weak", "medium", "strong", "max")},
    "negative-prompt": ("negative-prompt", {}),
    "seot": ("seot", {}),
    "concept-steerers": ("concept-steerers", {}),
    "crg": ("crg", {}),
    "itd": ("itd", {}),
}
"""Name of a row -> eraser and options."""
CONCEPTS = ("church", "cat", "guitar", "car", "noto", "stencil")
WITH_NEGATIVE = ("church", "noto")
NEGATIVE = "a ghost"
"""A user's own negative prompt."""
COLUMNS = ("ua", "ua_synonyms", "ira_drop", "cra_drop", "intact", "benign_identical", "time_ratio")
MINUTES = 1.5
"""Of a row, before one was measured."""


class Key(NamedTuple):
    """What a row is of."""

    method: str
    concept: str
    scale: float
    negative: bool
    prompts: int
    """With the concept; twice as many are without."""
    weights: str
    """Of the model."""


class Drawn(NamedTuple):
    """Pictures of pairs of an object and a style."""

    images: list[Any]
    objects: list[Verdict]
    styles: list[Verdict]
    seconds: float


@dataclass
class Run:
    """A folder of rows, and what is needed to measure more of them."""

    folder: Path
    prompts: int
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict[Key, dict[str, Any]])
    unguarded: dict[Any, Drawn] = field(default_factory=dict[Any, Drawn])
    erasures: dict[tuple[str, str], Erasure] = field(default_factory=dict[tuple[str, str], Erasure])

    @cached_property
    def model(self) -> Model:
        """The embedded model."""
        return Model(load("emoji"))

    @cached_property
    def weights(self) -> str:
        """A digest of its weights."""
        return digest_of_weights(p for net in self.model.components().values() for p in net.parameters())[:16]

    def read(self) -> None:
        """Take the rows of an earlier run."""
        file = self.folder / "rows.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            found = json.loads(line)
            self.rows[Key(**{name: found[name] for name in Key._fields})] = found["figures"]

    def key(self, method: str, concept: str, scale: float, negative: bool) -> Key:
        """The key of a row."""
        return Key(method, concept, scale, negative, self.prompts, self.weights)

    def measure(self, key: Key) -> dict[str, Any]:
        """The figures of a row, measured where they are not known."""
        if key not in self.rows:
            self.rows[key] = self.figures(key)
            with (self.folder / "rows.jsonl").open("a") as file:
                file.write(json.dumps(key._asdict() | {"figures": self.rows[key]}) + "\n")
            print(
                f"{key.method:16} {key.concept:8} x{key.scale:<4g} {'negative ' * key.negative}{json.dumps(self.rows[key])}",
                flush=True,
            )
        return self.rows[key]

    def erasure(self, method: str, concept: Concept) -> Erasure:
        """The guard of a row, made once."""
        if (method, concept.name) not in self.erasures:
            name, options = METHODS[method]
            self.erasures[method, concept.name] = erase(self.model.pipeline, concept, method=name, **options)
        return self.erasures[method, concept.name]

    def figures(self, key: Key) -> dict[str, Any]:
        """Draw with and without a guard, and compare."""
        (concept, *_) = emoji_concepts(key.concept)
        own, others = pairs_with(key.concept, self.prompts), pairs_without(key.concept, 2 * self.prompts)
        before = self.plain(own, key.negative), self.plain(others, key.negative)
        synonyms = [alias for alias in concept.aliases if alias != concept.name]
        with self.erasure(key.method, concept).attached(self.model.pipeline, scale=key.scale):
            erased, kept = self.draw(own, key.negative), self.draw(others, key.negative)
            renamed = self.draw(own, key.negative, (concept.name, synonyms[0])) if synonyms else None
        is_object = key.concept in BENCHMARK
        same = [np.array_equal(a, b) for a, b in zip(before[1].images, kept.images, strict=True)]
        return {
            "ua": percent(not v.shown for v in side(erased, is_object)),
            "ua_synonyms": None if renamed is None else percent(not v.shown for v in side(renamed, is_object)),
            "ira_drop": drop(side(before[1], is_object), side(kept, is_object)),
            "cra_drop": drop(side(before[1], not is_object), side(kept, not is_object)),
            "intact": percent(v.intact for v in erased.objects),
            "benign_identical": percent(same),
            "time_ratio": round(kept.seconds / before[1].seconds, 3),
        }

    def plain(self, pairs: Sequence[tuple[str, str]], negative: bool) -> Drawn:
        """What the unguarded model draws, drawn once."""
        key = (tuple(pairs), negative)
        if key not in self.unguarded:
            self.unguarded[key] = self.draw(pairs, negative)
        return self.unguarded[key]

    def draw(self, pairs: Sequence[tuple[str, str]], negative: bool, renamed: tuple[str, str] | None = None) -> Drawn:
        """Draw captions of pairs, a seed each, and judge them."""
        prompts = [caption(*pair) if renamed is None else caption(*pair).replace(*renamed) for pair in pairs]
        started = time.perf_counter()
        images = self.model.draw(
            prompts, seeds=range(len(prompts)), steps=STEPS, guidance=GUIDANCE, negative=NEGATIVE if negative else None
        )
        seconds = time.perf_counter() - started
        return Drawn(
            images=[np.asarray(image) for image in images],
            objects=list(verdicts_on(embedded_judge("emoji", "object"), images, [pair[0] for pair in pairs])),
            styles=list(verdicts_on(embedded_judge("emoji", "style"), images, [pair[1] for pair in pairs])),
            seconds=seconds,
        )


def pairs_with(concept: str, count: int) -> list[tuple[str, str]]:
    """Pairs that have an object or a style, each of the others in turn."""
    if concept in BENCHMARK:
        return [(concept, STYLES[i % len(STYLES)]) for i in range(count)]
    return [(BENCHMARK[i % len(BENCHMARK)], concept) for i in range(count)]


def pairs_without(concept: str, count: int) -> list[tuple[str, str]]:
    """Pairs that have neither."""
    everything = [(o, s) for o in BENCHMARK for s in STYLES if concept not in (o, s)]
    return [everything[(7 * i) % len(everything)] for i in range(count)]


def side(drawn: Drawn, objects: bool) -> list[Verdict]:
    """Verdicts on objects, or on styles."""
    return drawn.objects if objects else drawn.styles


def percent(values: Any) -> float:
    """Share of true values in percent."""
    found = list(values)
    return round(100 * sum(found) / max(1, len(found)), 1)


def drop(before: Sequence[Verdict], after: Sequence[Verdict]) -> float:
    """Points by which fewer are shown."""
    return round(percent(v.shown for v in before) - percent(v.shown for v in after), 1)


def summary(run: Run, method: str, scale: float) -> dict[str, float | None]:
    """The means of a method over its concepts, without a negative prompt."""
    rows = [figures for key, figures in run.rows.items() if key == run.key(method, key.concept, scale, False)]
    found = {name: [row[name] for row in rows if row[name] is not None] for name in COLUMNS}
    return {name: round(sum(values) / len(values), 3) if values else None for name, values in found.items()}


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/guards"),
    methods: tuple[str, ...] = tuple(METHODS),
    concepts: tuple[str, ...] = CONCEPTS,
    scales: tuple[float, ...] = (1.0,),
    prompts: int = 20,
    plan: bool = False,
    quick: bool = False,
) -> None:
    """Measure every row that is missing.

    Args:
        output: folder of the rows; a run that was stopped goes on there.
        methods: which guards.
        concepts: which concepts.
        scales: with which they are attached; the last line is of the first.
        prompts: that name the concept; twice as many do not.
        plan: only say which rows are missing, and the minutes.
        quick: church; sld-max and crg; two prompts with the concept and four without.
    """
    if quick:
        methods, concepts, prompts = ("sld-max", "crg"), ("church",), 2
    output.mkdir(parents=True, exist_ok=True)
    run = Run(output, prompts)
    run.read()
    known = [method for method in methods if METHODS[method][0] in ERASERS]
    negatives = () if quick else WITH_NEGATIVE
    wanted = [
        run.key(method, concept, scale, negative)
        for concept in concepts
        for method in known
        for scale in scales
        for negative in (False, True)
        if not negative or concept in negatives
    ]
    missing = [key for key in wanted if key not in run.rows]
    print(f"{len(missing)} rows are missing: about {len(missing) * MINUTES * prompts / 20:.0f} minutes", flush=True)
    if plan:
        for key in missing:
            print("  ", key.method, key.concept, key.scale, "with a negative prompt" if key.negative else "")
        return
    for key in wanted:
        run.measure(key)
    print(json.dumps({method: summary(run, method, scales[0]) for method in methods}))


if __name__ == "__main__":
    tyro.cli(main)
