"""What the quality benchmarks share: the canvas, what is asked of it, and rows of figures that are measured once.

`efface.profiles.emoji.exam` says what a figure counts: always pictures at which the unerased model shows what is asked, and fewer
than 20 of them are no figure (null).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from efface.api.erase import erase, plan_erasure
from efface.concepts.concept import Concept
from efface.erasures import Erasure
from efface.io.digest import digest_of_weights, digest_of_words
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.exam import Exam
from efface.profiles.emoji.score import JudgedImages, draw_and_judge
from efface.profiles.emoji.shares import Figures, Share
from efface.profiles.emoji.words import BENCHMARK, STYLES

KINDS: dict[str, tuple[str, ...]] = {"objects": BENCHMARK, "styles": STYLES}
DTYPE = "bfloat16"
"""In which pictures are drawn: in half the time of float32, with the same objects (docs/benchmarks.md says how often)."""
LONG = 8
"""Texts; longer lists of them stand in a row's key as a digest."""


def canvas(dtype: str = DTYPE) -> Model:
    """The emoji canvas."""
    return Model(load("emoji", device="cpu", dtype=dtype))


class Key(NamedTuple):
    """What a row is of."""

    method: str
    config: str
    """The method's whole configuration, as JSON."""
    concept: str
    part: str
    """Which figures."""
    weights: str
    """Of the model."""


def key_of(
    model: Model, weights: str, method: str, concept: str | Concept, part: str, options: dict[str, Any] | None = None
) -> Key:
    """The key of a row of today's settings."""
    plan = plan_erasure(model.pipeline, concept, method=method, **(options or {}))
    config = {name: shortened(value) for name, value in dataclasses.asdict(plan.config).items()}
    name = concept if isinstance(concept, str) else concept.name
    return Key(method, json.dumps(config, sort_keys=True), concept=name, part=part, weights=weights)


def shortened(value: Any) -> Any:
    """A setting; a long list of texts as their number and a digest."""
    if isinstance(value, list | tuple) and len(value) > LONG and all(isinstance(text, str) for text in value):
        return f"{len(value)} texts {digest_of_words(value)}"
    return value


def weights_of(model: Model) -> str:
    """A digest of a model's weights."""
    return digest_of_weights(p for net in model.components().values() for p in net.parameters())[:16]


@dataclass
class Bench:
    """The canvas, and what it makes of every prompt without an erasure."""

    exam: Exam
    output: Path | None = None
    """JSON Lines file of every erasure's row, so that a long run can be continued."""

    def __post_init__(self) -> None:
        self.known = {
            Key(*(row[name] for name in Key._fields)): Figures(*(Share(*pair) for pair in row["shares"]))
            for row in lines(self.output)
        }

    @cached_property
    def weights(self) -> str:
        """A digest of the canvas's weights."""
        return weights_of(self.model)

    @property
    def model(self) -> Model:
        """The canvas."""
        return self.exam.model

    def key(self, concept: str, method: str, **options: Any) -> Key:
        """What a row is of."""
        dtype = str(self.model.networks()[0].module.dtype).removeprefix("torch.")
        part = f"{len(self.exam.shared)} prompts, {self.exam.scenes} scenes, {dtype}"
        return key_of(self.model, self.weights, method, concept, part, options)

    def measure(self, concept: str, method: str, **options: Any) -> Figures:
        """The figures of one erasure."""
        key = self.key(concept, method, **options)
        if key not in self.known:
            self.known[key] = self.exam.after(concept, erase(self.model.pipeline, concept, method=method, **options))
            if self.output:
                append(self.output, key._asdict() | {"shares": self.known[key]})
        return self.known[key]

    def draw(self, *erasures: Erasure) -> JudgedImages:
        """The pictures of all pairs with erasures attached, one seed each."""
        with ExitStack() as stack:
            for erasure in erasures:
                stack.enter_context(erasure.attached(self.model.pipeline))
            return draw_and_judge(self.model, self.exam.pairs, seeds=range(1))


def lines(path: Path | None) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; a line that was cut when a run was killed is left out."""
    found = []
    for line in path.read_text().splitlines() if path and path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a JSON Lines file, after whatever line was cut there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a") as file:
        file.write(f"{'' if whole else chr(10)}{json.dumps(row)}\n")


def third(pairs: Sequence[tuple[str, str]], always: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Every third pair along the diagonals, and all pairs of the objects named."""
    return [p for i, p in enumerate(pairs) if (i // len(STYLES) + i) % 3 == 0 or p[0] in always]


def bench_of(
    seeds: int = 2, quick: bool = False, full: bool = False, output: Path | None = None, dtype: str = DTYPE
) -> tuple[Bench, dict[str, tuple[str, ...]]]:
    """The canvas, and the concepts of each kind: every third pair, 60 prompts; `full` takes all 180, `quick` four objects and three
    styles, one seed, and 10 of the 40 two-object pictures of each."""
    concepts = {"objects": BENCHMARK[::5], "styles": STYLES[::4]} if quick else KINDS
    pairs = [(o, s) for o in BENCHMARK for s in STYLES]
    if not full:
        pairs = third(pairs, concepts["objects"] if quick else ())
    exam = Exam(canvas(dtype), pairs, 1 if quick else seeds, scenes=10 if quick else 40)
    return Bench(exam, output), concepts
