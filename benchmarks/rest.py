"""Leaks through pictures, SAUCE, sparse heads, a judge that stands small changes, the audit of a checkpoint, and ACDiT.

    python benchmarks/rest.py -o runs/rest     # keeps everything found; goes on where it was stopped
    python benchmarks/rest.py --plan           # only says what would be drawn
    python benchmarks/rest.py --quick          # two methods, one concept, few samples
    python benchmarks/rest.py --parts leaks --methods uce esd anchored --concepts church cat

Six tables: the restoration share of every leak, by method (and of an erasure of another concept, which must restore nearly
all); what a vision-language model says before and after SAUCE; what sparse heads tell by, and erase with; the smoothed judge on
generated pictures; the audit of a control that was trained to fool the judge, and of harmless candidates; erasures of a model that
draws block by block. The last line is one JSON object; null stands for what was not measured.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tyro
from acdit import Bench, measured
from fooling import HARMLESS, NOT_DRAWN, audits
from quality import DTYPE
from smoothing import smoothed_judge
from sparse_head import sparse_head
from vision_language import PICTURES, sauce

from efface.api.attack import attack
from efface.api.erase import erase
from efface.attacks import LEAKS
from efface.erasures import Erasure
from efface.io.atomic import write_atomically
from efface.metrics.restoration import restoration
from efface.models.load import load
from efface.profiles.emoji.words import STYLES
from efface.redteam.samples import Samples
from efface.report import markdown

METHODS = ("uce", "rece", "esd", "anchored")
"""Two maps of text, trained weights, and edits of activations."""
CONCEPTS = ("church", "cat", "guitar", "car")
OTHER = {"church": "guitar", "cat": "church", "guitar": "cat", "car": "cat"}
"""What is erased instead, for the row that must restore nearly all."""
UNTOUCHED = "another concept"
Part = Callable[["Run"], Any]


@dataclass(frozen=True)
class Run:
    """What is measured, and where it is kept."""

    folder: Path
    methods: tuple[str, ...]
    concepts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Which leaks."""
    samples: int
    """Prompts and seeds of every leak."""
    pictures: int
    """Of the smoothed judge."""
    count: int
    """Noisy copies of a picture for a certificate."""
    pairs: int
    """Pairs of pictures of every checkpoint."""
    candidates: int
    """Harmless ones, at most ten."""
    seeds: int
    """Of the labelled pictures of sparse heads."""
    asked: int
    """Pictures of an erased concept in every style that the vision-language model is asked about."""
    styles: tuple[str, ...]
    """Of the pictures that it is asked about and learns from."""

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured before under this name, else measured now and kept."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        value = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(value).encode())
        return value


@cache
def canvas(dtype: str = "float32") -> Any:
    """The embedded model."""
    return load("emoji", dtype=dtype)


def erasure_in(run: Run, method: str, concept: str) -> Erasure:
    """A method's erasure, made once."""
    path = run.folder / "erasures" / f"{method}-{concept}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        erase(canvas(), concept, method=method).save(path)
    return Erasure.from_pretrained(path)


def leaks(run: Run) -> dict[str, dict[str, Any]]:
    """Restoration share of every leak and method over all concepts."""
    print(markdown.head(["leak", *run.methods, UNTOUCHED]), flush=True)
    figures: dict[str, dict[str, Any]] = {}
    for leak in run.kinds:
        cells = []
        figures[leak] = {}
        for method in (*run.methods, UNTOUCHED):
            rows = [row for concept in run.concepts for row in leaked(run, leak, method, concept)]
            prompts = list(dict.fromkeys(row["prompt"] for row in rows))
            found = restoration(
                [row["erased"] for row in rows],
                [row["original"] for row in rows],
                [row["without"] for row in rows],
                [prompts.index(row["prompt"]) for row in rows],
            )
            figures[leak][method] = found.to_json()["value"] if not found.powerless else None
            cells.append(str(found))
        print(markdown.row([leak, *cells]), flush=True)
    return figures


def leaked(run: Run, leak: str, method: str, concept: str) -> list[dict[str, Any]]:
    """What each sample of one concept showed, drawn in half precision; the erasures are made in float32."""

    def measure() -> list[dict[str, Any]]:
        erased = OTHER[concept] if method == UNTOUCHED else concept
        findings = attack(
            canvas(DTYPE),
            erasure_in(run, run.methods[0] if method == UNTOUCHED else method, erased),
            concept,
            method=leak,
            budget="canvas",
            samples=Samples(run.samples, sanity=0),
        )
        return [
            {
                "prompt": f"{concept}: {result.sample.prompt}",
                "erased": result.after.shown,
                "original": result.controls.original.shown,
                "without": result.controls.without.shown,
            }
            for result in findings.samples
            if result.controls is not None
        ]

    return run.once(f"leaks/{leak}/{method.replace(' ', '-')}/{concept}-{run.samples}-{DTYPE}", measure)


def smoothed(run: Run) -> dict[str, float]:
    """Accuracy of the smoothed judge on generated pictures, certified accuracy, and what descent does to both judges."""
    return smoothed_judge(run.pictures, run.count, run.once)


def checkpoint(run: Run) -> dict[str, Any]:
    """Whether the control is flagged, and how many harmless candidates are."""
    harmless = HARMLESS[: run.candidates]
    return audits(
        run.folder / "checkpoint", run.pairs, harmless, lambda name: erasure_in(run, name, NOT_DRAWN), run.once
    )


def vision_language(run: Run) -> dict[str, float]:
    """Shares of answers of the small vision-language model under SAUCE."""
    name = f"sauce-{run.asked}-{len(run.styles)}"  # its autoencoder learns from pictures in these styles
    return run.once(name, lambda: sauce(run.folder / name, run.concepts, run.asked, run.styles))


def latents(run: Run) -> dict[str, Any]:
    """What a sparse head tells, and whether its latents erase as well as those of the published score."""
    folder = run.folder / "sparse_head" / f"{run.seeds}-seeds"
    return sparse_head(
        folder, run.concepts, run.seeds, lambda name, of: run.once(f"sparse_head/{name}-{run.seeds}", of)
    )


def acdit(run: Run) -> dict[str, Any]:
    """What erasures do to a model that draws block by block."""
    return measured(Bench(run.folder / "acdit", quick=len(run.concepts) == 1, concepts=run.concepts))


PARTS: dict[str, Part] = {
    "leaks": leaks,
    "sauce": vision_language,
    "sparse_head": latents,
    "smoothed": smoothed,
    "checkpoint": checkpoint,
    "acdit": acdit,
}


def planned(run: Run, parts: Sequence[str]) -> dict[str, int]:
    """Pictures of every part, about."""
    attacked = len(run.kinds) * (len(run.methods) + 1) * len(run.concepts) * run.samples
    all_of = {
        "leaks": 4 * attacked,
        "sauce": len(run.styles) * (PICTURES + run.asked * len(run.concepts)),
        "sparse_head": 180 * run.seeds + 81 * len(run.concepts),
        "smoothed": run.pictures,
        "checkpoint": run.pairs * (5 + run.candidates),
        "acdit": 180 * 2 + 47 * 5 * len(run.concepts),
    }
    return {name: all_of[name] for name in parts}


def main(
    quick: bool = False,
    plan: bool = False,
    parts: tuple[str, ...] = tuple(PARTS),
    methods: tuple[str, ...] | None = None,
    concepts: tuple[str, ...] | None = None,
    kinds: tuple[str, ...] = LEAKS,
    samples: int | None = None,
    pictures: int | None = None,
    pairs: int | None = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """Measure every part and print its table.

    Args:
        quick: two methods, one concept, few samples.
        plan: only say how many pictures would be drawn.
        parts: leaks, sauce, sparse_head, smoothed, checkpoint, acdit.
        methods: erasers whose leaks are measured; the first one's erasure of another concept is the last column.
        concepts: which concepts, of church, cat, guitar and car.
        kinds: which leaks.
        samples: prompts and seeds of each leak.
        pictures: of the smoothed judge.
        pairs: pictures by base and candidate.
        output: folder that keeps everything found; a run that was stopped goes on there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(
            folder=output or Path(scratch),
            methods=methods or (METHODS[:1] + METHODS[3:] if quick else METHODS),
            concepts=concepts or (CONCEPTS[:1] if quick else CONCEPTS),
            kinds=kinds,
            samples=samples or (4 if quick else 8),
            pictures=pictures or (1 if quick else 16),
            count=200 if quick else 1000,
            pairs=pairs or (24 if quick else 120),
            candidates=1 if quick else 10,
            seeds=1 if quick else 4,
            asked=1 if quick else 4,
            styles=STYLES[::3] if quick else STYLES,
        )
        if plan:
            print(json.dumps(planned(run, parts)))
            return
        began = time.monotonic()
        found: dict[str, Any] = dict.fromkeys(PARTS)
        for name in parts:
            found[name] = PARTS[name](run)
            print(f"{name}: at {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        print(json.dumps(found))


if __name__ == "__main__":
    tyro.cli(main)
