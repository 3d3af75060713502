"""Pictures that the embedded model draws of the benchmark, and whether its judge sees there what was asked for.

python -m recipes.vlm.drawn
python -m recipes.vlm.drawn --train 1 --held 1
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from efface.io import embedded
from efface.judges import embedded_judge
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.words import PLACES, caption
from recipes.emoji.training import stage
from recipes.emoji.words import BENCHMARK, STYLES
from recipes.vlm import WORK

SEEDS = {"train": 70_000, "held": 80_000}
"""First seed of the pictures to learn from, and of those kept back."""
PART = 48
"""Pictures of a file."""


class Asked(NamedTuple):
    """A picture to be drawn."""

    thing: int
    """Index into BENCHMARK."""
    style: int
    """Index into STYLES."""
    place: str | None
    seed: int


def asked(copies: int, first: int) -> list[Asked]:
    """Every object of the benchmark in every style so many times, half of them at a place, each from a seed of its own."""
    places = list(PLACES)
    found = []
    for copy in range(copies):
        for thing in range(len(BENCHMARK)):
            for style in range(len(STYLES)):
                number = (copy * len(BENCHMARK) + thing) * len(STYLES) + style
                place = places[(number * 5 + copy) % len(places)] if (thing + style + copy) % 2 else None
                found.append(Asked(thing, style, place, first + number))
    return found


def draw(model: Model, wanted: list[Asked]) -> dict[str, Tensor]:
    """`pixels` (count 96 96 3, uint8), `thing`, `style`, and whether the judge sees them (`named`, `styled`)."""
    prompts = [caption(BENCHMARK[a.thing], STYLES[a.style], a.place) for a in wanted]
    pictures = model.draw(prompts, seeds=[a.seed for a in wanted], **embedded.sampling("emoji"))
    objects, styles = (embedded_judge("emoji", what)(pictures) for what in ("object", "style"))
    named = [label == BENCHMARK[a.thing] for a, label in zip(wanted, objects.labels, strict=True)]
    styled = [label == STYLES[a.style] for a, label in zip(wanted, styles.labels, strict=True)]
    return {
        "pixels": torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])),
        "thing": torch.tensor([a.thing for a in wanted]),
        "style": torch.tensor([a.style for a in wanted]),
        "named": torch.tensor(named) & objects.intact,
        "styled": torch.tensor(styled),
    }


def drawn(work: Path, split: str) -> dict[str, Tensor]:
    """All pictures of `train` or `held`."""
    parts = [load_file(path) for path in sorted((work / "drawn" / split).glob("*.safetensors"))]
    if not parts:
        raise SystemExit(f"{work / 'drawn' / split} holds no pictures: run python -m recipes.vlm.drawn first.")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    """Write `drawn/train` and `drawn/held`, a file of 48 pictures at a time; those that are there stay."""
    options = stage(__doc__ or "", work=WORK, train=2, held=1)
    model = Model(load("emoji"))
    for split, copies in (("train", options.train), ("held", options.held)):
        wanted = asked(copies, SEEDS[split])
        folder = options.work / "drawn" / split
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(0, len(wanted), PART):
            path = folder / f"{number // PART:04}.safetensors"
            if not path.exists():
                save_file(draw(model, wanted[number : number + PART]), path.with_suffix(".partial"))
                os.replace(path.with_suffix(".partial"), path)
        made = drawn(options.work, split)
        shares = ", ".join(f"{name} {made[name].float().mean():.1%}" for name in ("named", "styled"))
        print(f"{split}: {len(made['thing'])} pictures, {shares}", flush=True)


if __name__ == "__main__":
    main()
