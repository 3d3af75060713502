"""SAUCE on the small vision-language model of recipes/vlm: what it says of pictures before and after.

    python benchmarks/vision_language.py -o runs/vlm     # keeps pictures, autoencoder and erasures; goes on where it was stopped
    python benchmarks/vision_language.py --quick         # one concept, few pictures

The embedded model draws all pictures: those to learn from, and those that are asked about, which no training saw. One autoencoder
serves all concepts. The last line is one JSON object of shares: `named` and `yes` over the erased concepts' pictures, `others_drop`
and `style_drop` as differences before less after.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from efface.api.answers import NAMED, OTHERS_NAMED, OTHERS_STYLE, SEEN, AnswerCard, audit_answers, read_shown
from efface.api.erase import erase
from efface.concepts.sample import SEEDS
from efface.io import embedded
from efface.io.images import read_picture, save_picture
from efface.io.picture_folder import pictures_in
from efface.models.load import load
from efface.models.model import Model
from efface.models.vlm import PROJECTOR, VisionLanguageModel
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
from efface.report import markdown
from efface.sae.config import SAETrainConfig
from efface.sae.image_stream import ImageStream
from efface.sae.train import train

WEIGHTS = Path(__file__).parents[1] / "recipes" / "vlm" / "weights"
CONCEPTS = ("church", "cat", "guitar", "car")
TRAINING = SAETrainConfig(expansion=16, k=16, steps=600, batch=2048, lr=1e-3, passes=4.0)
ROUND = 60
"""Pictures of a round of training."""
LEARNT = 2
"""Pictures of every object in every style to learn from."""
PICTURES = (LEARNT + 1) * len(BENCHMARK)
"""Drawn in every style beside those of the erased concepts that are asked about."""


def drawn(folder: Path, first: int, copies: dict[str, int], styles: Sequence[str]) -> Path:
    """Pictures of objects in styles as FOLDER/OBJECT/STYLE/SEED.png; those that are there stay.

    Args:
        folder: where they are.
        first: first seed.
        copies: object -> pictures in every style.
        styles: in which they are drawn.
    """
    wanted = [
        (name, style, first + STYLES.index(style) * 100 + BENCHMARK.index(name) * 1000 + copy)
        for name, count in copies.items()
        for style in styles
        for copy in range(count)
    ]
    paths = [folder / name.replace(" ", "_") / style / f"{seed}.png" for name, style, seed in wanted]
    lacking = [(path, *one) for path, one in zip(paths, wanted, strict=True) if not path.exists()]
    if lacking:
        model = Model(load("emoji"))
        for start in range(0, len(lacking), 24):
            some = lacking[start : start + 24]
            pictures = model.draw(
                [caption(name, style) for _, name, style, _ in some],
                seeds=[seed for _, _, _, seed in some],
                **embedded.sampling("emoji"),
            )
            for (path, *_), picture in zip(some, pictures, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_picture(picture, path)
    return folder


def trained(vlm: VisionLanguageModel, pictures: Path, folder: Path) -> Path:
    """A folder with an autoencoder of the projector's input, trained on these pictures; one that is there stays."""
    if not (folder / PROJECTOR / "sae.safetensors").exists():
        every = [read_picture(file.path) for file in pictures_in(pictures)]
        train(ImageStream(vlm, every, [vlm.site(PROJECTOR)], count=min(ROUND, len(every))), TRAINING, folder)
    return folder


def cards(
    folder: Path, concepts: Sequence[str], copies: int, styles: Sequence[str], options: dict[str, Any]
) -> dict[str, AnswerCard]:
    """The audit of every concept's erasure.

    Args:
        folder: keeps pictures, autoencoder and erasures.
        concepts: each erased alone.
        copies: pictures in every style of each of them that are asked about; one of everything else.
        styles: of all pictures.
        options: of SAUCE.
    """
    vlm = load(WEIGHTS, device="cpu")
    learn = drawn(folder / "learn", SEEDS.statistics, dict.fromkeys(BENCHMARK, LEARNT), styles)
    ask = drawn(folder / "ask", SEEDS.audit, dict.fromkeys(BENCHMARK, 1) | dict.fromkeys(concepts, copies), styles)
    coder = trained(vlm, learn, folder / "sae")
    shown = read_shown(ask)
    found = {}
    for concept in concepts:
        erasure = erase(vlm, concept, method="sauce", images=str(learn), coder=str(coder), **options)
        erasure.save(folder / f"{concept.replace(' ', '_')}.safetensors")
        asked = [one for one in shown if one.name == concept] + [one for one in shown if one.name != concept]
        found[concept] = audit_answers(vlm, erasure, asked)
    return found


def figures(found: dict[str, AnswerCard]) -> dict[str, float]:
    """Means over the concepts."""

    def mean(values: Sequence[float]) -> float:
        return round(statistics.mean(values), 4)

    every = found.values()
    return {
        "named": mean([card.row(NAMED).after.value for card in every]),
        "yes": mean([card.row(SEEN).after.value for card in every]),
        "others_drop": mean([-card.row(OTHERS_NAMED).change.difference for card in every]),
        "style_drop": mean([-card.row(OTHERS_STYLE).change.difference for card in every]),
    }


def sauce(
    folder: Path,
    concepts: Sequence[str],
    copies: int,
    styles: Sequence[str] = STYLES,
    options: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Print a table of all rows, and return the figures; arguments as of `cards`."""
    found = cards(folder, concepts, copies, styles, options or {})
    rows = [row.group for row in next(iter(found.values())).rows]
    print(markdown.head(["answers, before → after", *found]))
    for group in rows:
        cells = [card.row(group) for card in found.values()]
        print(markdown.row([group, *(f"{c.before.value:.1%} → {c.after}" for c in cells)]), flush=True)
    return figures(found)


def main(
    quick: bool = False,
    concepts: tuple[str, ...] | None = None,
    copies: int | None = None,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> None:
    """Measure and print.

    Args:
        quick: one concept, and one picture of it in every style.
        concepts: which of the benchmark's objects are erased, one after the other.
        copies: pictures of each of them in every style that are asked about.
        output: folder that keeps everything made.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found = sauce(
            output or Path(scratch), concepts or CONCEPTS[: 1 if quick else None], copies or (1 if quick else 4)
        )
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    print(json.dumps({"sauce": found}))


if __name__ == "__main__":
    tyro.cli(main)
