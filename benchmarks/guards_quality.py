"""What guards keep from being drawn on the embedded model, what they damage, and what they cost.

    python benchmarks/guards_quality.py -o RUN.jsonl --plan     # rows that are missing, and minutes
    python benchmarks/guards_quality.py -o RUN.jsonl            # all of it; goes on where it was stopped
    python benchmarks/guards_quality.py -o RUN.jsonl --quick    # church; sld-max and crg; six prompts
    python benchmarks/guards_quality.py -o RUN.jsonl --scales 1 2 4    # UA against damage, over the strength of each guard

A row is one guard of one concept at one scale, with a user's negative prompt or without: 20 prompts that name the concept, as many
as it has held-out synonyms and descriptions in every style, and 40 prompts without it, one seed each. Figures are those of
`efface.profiles.emoji.exam`, over pictures at which the unguarded model shows what is asked with the same seeds and negative prompt;
those of a method add the pictures of its concepts. `benign_identical` is the share of the 40 that are equal to the unguarded ones in
every pixel, `time_ratio` seconds of the 40 over those of the unguarded ones.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from quality import append, canvas, key_of, lines, weights_of

from efface.api.erase import erase
from efface.concepts.concept import Concept
from efface.erasers import ERASERS
from efface.erasures import Erasure
from efface.models.model import Model
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.exam import Seen, figures, judged
from efface.profiles.emoji.questions import Asked, by_name, by_words
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.shares import Figures, Share, added
from efface.profiles.emoji.words import BENCHMARK, STYLES

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "safree": ("safree", {}),
    **{f"sld-{preset}": ("sld", {"preset": preset}) for preset in ("weak", "medium", "strong", "max")},
    "negative-prompt": ("negative-prompt", {}),
    "seot": ("seot", {}),
    "concept-steerers": ("concept-steerers", {}),
    "crg": ("crg", {}),
    "itd": ("itd", {}),
    "safree-whole": ("safree", {"window": 1.0}),
    "seot-whole": ("seot", {"start": 0.0}),
}
"""Name of a row -> eraser and options; the last two act in the whole schedule, and are measured where they are named."""
TABLE = tuple(METHODS)[:-2]
CONCEPTS = ("church", "cat", "guitar", "car", "noto", "stencil")
WITH_NEGATIVE = ("church", "noto")
NEGATIVE = "a ghost"
"""A user's own negative prompt."""
SHARES = {
    "ua": "ua", "ua_synonyms": "ua_synonyms", "ua_descriptions": "ua_descriptions", "ira_drop": "ira_drop",
    "cra_drop": "cra_drop", "intact": "intact", "benign_identical": "identical",
}  # fmt: skip
"""Column -> figure of the exam."""
MINUTES = 1.2
"""Of a row, before one was measured."""


class Key(NamedTuple):
    """What a row is of."""

    method: str
    config: str
    """The eraser's whole configuration, as JSON."""
    concept: str
    scale: float
    negative: bool
    prompts: int
    """With the concept; twice as many are without."""
    weights: str
    """Of the model."""


class Row(NamedTuple):
    """What a guard came to."""

    figures: Figures
    seconds: float
    """Of the prompts without the concept."""
    unguarded_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Shares as [hits, pictures]."""
        return self._asdict()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """The inverse."""
        figures = Figures(*(Share(*share) for share in data["figures"]))
        return cls(figures, seconds=data["seconds"], unguarded_seconds=data["unguarded_seconds"])


@dataclass
class Run:
    """A file of rows, and what is needed to measure more of them."""

    output: Path
    """JSON Lines file."""
    prompts: int
    rows: dict[Key, Row] = field(default_factory=dict[Key, Row])
    unguarded: dict[Any, tuple[list[Seen], float]] = field(default_factory=dict[Any, tuple[list[Seen], float]])
    configs: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    erasures: dict[tuple[str, str], Erasure] = field(default_factory=dict[tuple[str, str], Erasure])

    @cached_property
    def model(self) -> Model:
        """The embedded model."""
        return canvas()

    @cached_property
    def weights(self) -> str:
        """A digest of its weights."""
        return weights_of(self.model)

    def read(self) -> None:
        """Take the rows of an earlier run."""
        for found in lines(self.output):
            if "row" in found and "config" in found:  # earlier versions had neither
                self.rows[Key(**{name: found[name] for name in Key._fields})] = Row.from_json(found["row"])

    def key(self, method: str, concept: str, scale: float, negative: bool) -> Key:
        """The key of a row."""
        if (method, concept) not in self.configs:
            name, options = METHODS[method]
            (wanted,) = emoji_concepts(concept)
            self.configs[method, concept] = key_of(self.model, self.weights, name, wanted, "", options).config
        config = self.configs[method, concept]
        return Key(
            method, config, concept=concept, scale=scale, negative=negative, prompts=self.prompts, weights=self.weights
        )

    def measure(self, key: Key) -> Row:
        """The row, measured where it is not known."""
        if key not in self.rows:
            row = self.rows[key] = self.row(key)
            append(self.output, key._asdict() | {"row": row.to_json()})
            negative = "negative  " * key.negative
            print(
                f"{key.method:16} {key.concept:8} x{key.scale:<4g} {negative}{row.figures}  "
                f"time {row.seconds / row.unguarded_seconds:.3f}",
                flush=True,
            )
        return self.rows[key]

    def erasure(self, method: str, concept: Concept) -> Erasure:
        """The guard of a row, made once."""
        if (method, concept.name) not in self.erasures:
            name, options = METHODS[method]
            self.erasures[method, concept.name] = erase(self.model.pipeline, concept, method=name, **options)
        return self.erasures[method, concept.name]

    def row(self, key: Key) -> Row:
        """Draw with and without a guard, and compare."""
        (concept, *_) = emoji_concepts(key.concept)
        own, others = self.own(key.concept), by_name(pairs_without(key.concept, 2 * self.prompts), [0])
        before = [self.plain(asked, key.negative) for asked in (own, others)]
        with self.erasure(key.method, concept).attached(self.model.pipeline, scale=key.scale):
            after = [self.draw(asked, key.negative) for asked in (own, others)]
        found = figures(key.concept, own + others, *(a + b for (a, _), (b, _) in (before, after)))
        return Row(figures=found, seconds=after[1][1], unguarded_seconds=before[1][1])

    def own(self, concept: str) -> list[Asked]:
        """Prompts of a concept: by its name, and of an object by words that the model never trained on."""
        named = [a for i, pair in enumerate(pairs_with(concept, self.prompts)) for a in by_name([pair], [100 + i])]
        if concept not in BENCHMARK:
            return named
        words = [*by_words(concept, "synonym"), *by_words(concept, "description")]
        return named + (words if self.prompts >= 20 else words[::20])

    def plain(self, asked: list[Asked], negative: bool) -> tuple[list[Seen], float]:
        """What the unguarded model draws, drawn once."""
        key = (tuple(asked), negative)
        if key not in self.unguarded:
            self.unguarded[key] = self.draw(asked, negative)
        return self.unguarded[key]

    def draw(self, asked: list[Asked], negative: bool) -> tuple[list[Seen], float]:
        """What the judges say of the pictures, and the seconds that drawing took."""
        started = time.perf_counter()
        images = self.model.draw(
            [a.prompt for a in asked], seeds=[a.seed for a in asked], steps=STEPS, guidance=GUIDANCE,
            negative=NEGATIVE if negative else None,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        return judged(images, asked), seconds


def pairs_with(concept: str, count: int) -> list[tuple[str, str]]:
    """Pairs that have an object or a style, each of the others in turn."""
    if concept in BENCHMARK:
        return [(concept, STYLES[i % len(STYLES)]) for i in range(count)]
    return [(BENCHMARK[i % len(BENCHMARK)], concept) for i in range(count)]


def pairs_without(concept: str, count: int) -> list[tuple[str, str]]:
    """Pairs that have neither."""
    everything = [(o, s) for o in BENCHMARK for s in STYLES if concept not in (o, s)]
    return [everything[(7 * i) % len(everything)] for i in range(count)]


def summary(run: Run, method: str, scale: float) -> dict[str, float | None]:
    """The pictures of all concepts of a method together, without a negative prompt."""
    rows = [row for key, row in run.rows.items() if key == run.key(method, key.concept, scale, False)]
    if not rows:
        return dict.fromkeys((*SHARES, "time_ratio"))
    found = added([row.figures for row in rows]).to_json()
    ratio = sum(row.seconds for row in rows) / sum(row.unguarded_seconds for row in rows)
    return {column: found[name] for column, name in SHARES.items()} | {"time_ratio": round(ratio, 3)}


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("guards.jsonl"),
    methods: tuple[str, ...] = TABLE,
    concepts: tuple[str, ...] = CONCEPTS,
    scales: tuple[float, ...] = (1.0,),
    prompts: int = 20,
    plain: bool = False,
    plan: bool = False,
    quick: bool = False,
) -> None:
    """Measure every row that is missing.

    Args:
        output: JSON Lines file of the rows; a run that was stopped goes on there.
        methods: which guards.
        concepts: which concepts.
        scales: with which they are attached; the last line is of the first.
        prompts: that name the concept; twice as many do not.
        plain: leave out the rows with a user's negative prompt.
        plan: only say which rows are missing, and the minutes.
        quick: church; sld-max and crg; two prompts with the concept and four without.
    """
    if quick:
        methods, concepts, prompts = ("sld-max", "crg"), ("church",), 2
    run = Run(output, prompts)
    run.read()
    known = [method for method in methods if METHODS[method][0] in ERASERS]
    negatives = () if quick or plain else WITH_NEGATIVE
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
    for method, scale in [(method, scale) for method in methods for scale in scales] if scales[1:] else []:
        print(f"{method:16} x{scale:<4g} {json.dumps(summary(run, method, scale))}")
    print(json.dumps({method: summary(run, method, scales[0]) for method in methods}))


if __name__ == "__main__":
    tyro.cli(main)
