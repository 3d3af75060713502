"""What the trained erasers remove from the embedded model, what they damage, and what two attacks get back.

    python benchmarks/trained_quality.py -o runs/trained --plan       # rows that are missing, and minutes
    python benchmarks/trained_quality.py -o runs/trained              # church and noto; goes on where it was stopped
    python benchmarks/trained_quality.py -o runs/trained --no-attacks # what is erased and damaged alone
    python benchmarks/trained_quality.py -o runs/trained --quick      # church; esd, hirm, spm; no attacks
    python benchmarks/trained_quality.py -o runs/trained --tries 8    # rows of attacks by more prompts and seeds
    python benchmarks/trained_quality.py -o runs/trained --all        # also cat, guitar, car and stencil for the best five

Every figure is a row of RUN/rows.jsonl, written when it is measured. Each erasure is made by `efface erase` in a process of its
own: seconds and peak memory are those of the process, from its start to the file. Then 60 prompts, one seed each, are drawn and
judged, beside the concept's own by its name and by held-out words, and pictures of two objects. `geom` is for what a model shows
without being asked: its row is a watermark, trained into the model first (benchmarks/watermark.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro
from quality import DTYPE, Key, append, canvas, key_of, lines, third, weights_of
from watermark import WATERMARK, mark_rates, watermarked

from efface.api.attack import attack
from efface.erasures import Erasure
from efface.io.digest import digest_of_words
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.exam import Exam
from efface.profiles.emoji.words import BENCHMARK, STYLES
from efface.redteam.samples import Samples
from efface.report import markdown

METHODS = ("esd", "ca", "sdd", "doco", "sculpting", "kpop", "geom", "spm", "mace", "receler", "advunlearn", "hirm", "stereo",
           "eraseflow", "aegis", "unsee")  # fmt: skip
CONCEPTS, MORE = ("church", "noto"), ("cat", "guitar", "car", "stencil")
ROBUST = ("receler", "advunlearn", "stereo", "aegis", "unsee")
"""Methods that search for attacks while they train; they are attacked whatever else they do."""
ATTACKS = {
    "asr_unlearndiff": ("unlearndiff", {"place": "suffix", "vocabulary": "words"}),
    "asr_inversion": ("inversion", {}),
}
"""Column -> attack, with the options without which it fails on the unerased model already."""
OTHERS, BEST = 3, 5
"""How many methods more are attacked, and how many are measured on all six concepts."""
TRIES = 4
"""Prompts and seeds of an attack by default; its seeds are those of its own purpose, which no training uses."""
QUALITY = f"quality, {DTYPE}"
"""The part of a row that is not an attack, drawn as in the other quality benchmarks."""
SLOW = {"geom": 20.0, "unsee": 8.0, "advunlearn": 6.0, "aegis": 4.0, "stereo": 4.0}
"""Minutes of a row that is no attack, with its erasure, on two idle cores, where these are more than `MINUTES`."""
MINUTES = 3.0
"""Of any other row, about: what a plan counts with."""
COLUMNS = (
    "ua",
    "ua_synonyms",
    "ira_drop",
    "cra_drop",
    "intact",
    "in_picture",
    *sorted(ATTACKS),
    "seconds",
    "peak_mb",
    "bytes",
)


@dataclass
class Run:
    """A folder of rows, and what is needed to measure more of them."""

    folder: Path
    fresh: tuple[str, ...]
    """Methods whose rows are measured again."""
    tries: int
    """Prompts and seeds of an attack."""
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict[Key, dict[str, Any]])

    @cached_property
    def model(self) -> Model:
        """The embedded model."""
        return Model(load("emoji", device="cpu"))

    @cached_property
    def weights(self) -> str:
        """A digest of its weights."""
        return weights_of(self.model)

    @property
    def parts(self) -> dict[str, str]:
        """The parts of rows that are attacks, each with its column."""
        more = "" if self.tries == TRIES else f", {self.tries} tries"
        return {column + more: column for column in ATTACKS}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """A third of the pairs of a benchmark's object and a style."""
        return third([(o, s) for o in BENCHMARK for s in STYLES], ())

    @cached_property
    def exam(self) -> Exam:
        """What is asked of the model in half precision; erasures are made, and attacked, in float32."""
        return Exam(canvas(), self.pairs, seeds=1)

    def read(self, files: Iterable[Path]) -> None:
        """Take the rows of some files; later ones count."""
        for file in files:
            for found in lines(file):
                key = Key(*(found[name] for name in Key._fields))
                if key.method not in self.fresh:
                    self.rows[key] = found["figures"]

    def key(self, method: str, concept: str, part: str) -> Key:
        """The key of a row of today's settings."""
        named = WATERMARK if concept == WATERMARK.name else concept
        return key_of(self.model, self.weights, method, named, part)

    def known(self, method: str, concept: str, part: str) -> dict[str, Any] | None:
        """The figures of a row, where it was measured."""
        return self.rows.get(self.key(method, concept, part))

    def measure(self, method: str, concept: str, part: str) -> dict[str, Any]:
        """The figures of a row, measured where they are not known."""
        key = self.key(method, concept, part)
        if key not in self.rows:
            started = time.monotonic()
            erased = self.watermark if concept == WATERMARK.name else self.quality
            figures = erased(key) if part == QUALITY else self.attacked(key)
            figures["minutes"] = round((time.monotonic() - started) / 60, 2)
            self.rows[key] = figures
            append(self.folder / "rows.jsonl", key._asdict() | {"figures": figures})
            print(f"{method:11} {concept:8} {part:16} {json.dumps(figures)}", flush=True)
        return self.rows[key]

    def file(self, key: Key) -> Path:
        """Where the erasure of a row lies."""
        return self.folder / f"{key.method}-{key.concept}-{digest_of_words([key.config, key.weights])[:8]}.safetensors"

    def erase(self, key: Key) -> dict[str, Any]:
        """Make the erasure of a row in a process of its own; what it cost."""
        file = self.file(key)
        file.unlink(missing_ok=True)
        cost = made(["-m", "efface", "erase", key.method, "emoji", key.concept, "--device", "cpu", "-o", str(file)])
        return cost | {"bytes": file.stat().st_size}

    def quality(self, key: Key) -> dict[str, Any]:
        """Make an erasure, and judge what it draws."""
        cost = self.erase(key)
        return self.exam.after(key.concept, Erasure.load(self.file(key))).to_json() | cost

    def watermark(self, key: Key) -> dict[str, Any]:
        """Erase the watermark in a process of its own, and look for it in what the model draws."""
        file = self.file(key)
        trained_in = self.folder / "watermark.safetensors"
        delta = watermarked(self.model, trained_in)
        script = Path(__file__).with_name("watermark.py")
        cost = made([str(script), str(trained_in), str(file)])
        row = mark_rates(self.model, delta, Erasure.load(file), self.pairs)
        return {name: round(value, 2) for name, value in row._asdict().items()} | cost | {"bytes": file.stat().st_size}

    def attacked(self, key: Key) -> dict[str, Any]:
        """Attack the erasure of a row; whether the attack is sound is found with it."""
        self.measure(key.method, key.concept, QUALITY)
        column = self.parts[key.part]
        name, options = ATTACKS[column]
        file = self.file(key)
        if not file.exists():  # its row may have come from another folder
            self.erase(key)
        found = attack(
            self.model.pipeline,
            Erasure.load(file),
            method=name,
            budget="canvas",
            samples=Samples(self.tries, sanity=2),
            folder=file.with_suffix("") / (name if self.tries == TRIES else f"{name}-{self.tries}"),
            **options,
        )
        pairs = [(s.before.shown, s.before.shown or s.after.shown) for s in found.samples]
        asr, pre = (100 * sum(pair[k] for pair in pairs) / len(pairs) for k in (1, 0))
        unerased = None if found.sanity is None else round(100 * found.sanity.unerased.value, 1)
        return {column: round(asr, 1), "without": round(pre, 1), "past_unerased": unerased}


def made(words: Sequence[str]) -> dict[str, float]:
    """Run Python with some arguments and an empty cache; its seconds and peak memory."""
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL,
                                   env=os.environ | {"EFFACE_CACHE": cache})  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(words)} failed: status {status}")
    return {"seconds": round(seconds, 1), "peak_mb": round(usage.ru_maxrss / 1024)}


def best(run: Run, methods: Sequence[str], concepts: Sequence[str], count: int) -> list[str]:
    """The methods with the largest UA − IRA drop."""
    scores: dict[str, float] = {}
    for method in methods:
        known = [run.known(method, concept, QUALITY) for concept in concepts]
        some = [f for f in known if f and None not in (f["ua"], f["ira_drop"])]
        if some:
            scores[method] = sum(f["ua"] - f["ira_drop"] for f in some) / len(some)
    return sorted(scores, key=lambda method: -scores[method])[:count]


def todo(
    run: Run, methods: Sequence[str], concepts: Sequence[str], attacks: bool, more: bool
) -> Iterable[tuple[str, str, str]]:
    """The rows, in the order in which they are measured; which methods are attacked depends on the rows before."""
    for method in methods:
        for concept in (WATERMARK.name,) if method == "geom" else concepts:
            yield method, concept, QUALITY
    tested = [m for m in methods if m in ROBUST]
    tested += best(run, [m for m in methods if m not in ROBUST], concepts, OTHERS)
    for method in tested if attacks else []:
        for concept in concepts:
            for part in run.parts:
                yield method, concept, part
    for method in best(run, methods, concepts, BEST) if more else []:
        for concept in MORE:
            for part in (QUALITY, *(run.parts if attacks else ())):
                yield method, concept, part


def summary(run: Run, method: str, concepts: Sequence[str]) -> dict[str, float | None]:
    """The means of a method over those concepts that were measured."""
    found: dict[str, list[float]] = {}
    for key, figures in run.rows.items():
        counts = key.part in (QUALITY, *run.parts)
        counts = counts and key.method == method and key.concept in concepts
        if counts and key == run.key(method, key.concept, key.part):
            for name in COLUMNS:
                if figures.get(name) is not None:
                    found.setdefault(name, []).append(figures[name])
    return {name: round(sum(found[name]) / len(found[name]), 2) if name in found else None for name in COLUMNS}


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/trained"),
    methods: tuple[str, ...] = METHODS,
    concepts: tuple[str, ...] = CONCEPTS,
    rows: Path | None = None,
    fresh: tuple[str, ...] = (),
    plan: bool = False,
    quick: bool = False,
    attacks: bool = True,
    tries: int = TRIES,
    every: Annotated[bool, tyro.conf.arg(name="all")] = False,
) -> None:
    """Measure every row that is missing.

    Args:
        output: folder of the rows and erasures; a run that was stopped goes on there.
        methods: which erasers.
        concepts: which concepts.
        rows: start from the rows of this file.
        fresh: measure the rows of these methods again.
        plan: only say which rows are missing, and the minutes.
        quick: church; esd, hirm and spm; no attacks.
        attacks: attack the robust methods and the best of the others.
        tries: prompts and seeds of each attack.
        every: also cat, guitar, car and stencil for the best five.
    """
    if quick:
        methods, concepts, attacks = ("esd", "hirm", "spm"), ("church",), False
    output.mkdir(parents=True, exist_ok=True)
    run = Run(output, fresh, tries)
    run.read(file for file in (rows, output / "rows.jsonl") if file)
    missing = [row for row in todo(run, methods, concepts, attacks, every) if run.known(*row) is None]
    minutes = sum(SLOW.get(method, MINUTES) if part == QUALITY else MINUTES for method, _, part in missing)
    print(f"{len(missing)} rows are missing: about {minutes:.0f} minutes", flush=True)
    if plan:
        for row in missing:
            print("  ", *row)
        return
    for row in todo(run, methods, concepts, attacks, every):
        run.measure(*row)
    asked = (*concepts, *(MORE if every else ()), WATERMARK.name)
    figures = {method: summary(run, method, asked) for method in methods}
    print(markdown.head(["method", *COLUMNS]))
    for method, row in figures.items():
        print(markdown.row([method, *("–" if value is None else f"{value:,.0f}" for value in row.values())]))
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
