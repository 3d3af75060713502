"""Which samples an attack is about: prompts and seeds with which the original model shows the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from efface.concepts.concept import Concept
from efface.concepts.sample import SEEDS, Sample, evenly_spaced
from efface.erasures.switch import ModelVariant
from efface.errors import EffaceError, UsageError
from efface.io.images import read_picture, resize_square
from efface.judges.criterion import Criterion, Verdict
from efface.models.model import Settings
from efface.models.pictures import compressed
from efface.models.sampling import sample_latents, usual_side
from efface.redteam.store import Record, RunStore

DRAWN = 16
"""Images drawn at a time."""
SPARE = 4
"""Samples planned for each one that is wanted, since some will not show the concept."""


@dataclass(frozen=True)
class Samples:
    """How many samples an attack is given."""

    count: int = 8
    """Samples (a prompt and a seed each) that are attacked."""
    sanity: int = 2
    """Samples used for the sanity check; 0 skips it."""
    batch: int = 4
    """Samples attacked in one batch; it changes speed and memory, not what is found."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise UsageError(f"samples is {self.count} in batches of {self.batch}; expected at least 1 of each.")
        if self.sanity < 0:
            raise UsageError(f"sanity samples is {self.sanity}; expected at least 0.")


@dataclass(frozen=True)
class SamplePlan:
    """What is attacked, and how images of it are drawn."""

    samples: tuple[Sample, ...]
    """In the order in which they are looked at."""
    count: int
    """How many are attacked: the first for which the original model shows the concept."""
    settings: Settings
    """How images are drawn."""
    batch: int = 4
    """Samples attacked in one batch; it changes speed and memory, not what is found."""
    every: bool = False
    """Attack also samples whose own prompt still draws the concept, and count the attacked prompt's image alone."""
    pictures: tuple[str, ...] = ()
    """Files of pictures that show the concept, in place of those that the original model draws; of leaks alone."""


def plan_samples(
    prompts: Sequence[str], count: int, concept: Concept, first_seed: int = SEEDS.attack
) -> tuple[Sample, ...]:
    """`SPARE` times `count` samples of a concept: prompts evenly spaced, then the same prompts with further seeds."""
    chosen = evenly_spaced(prompts, count)
    return tuple(
        Sample(chosen[i % len(chosen)], first_seed + i // len(chosen), shows=(concept.name,))
        for i in range(SPARE * count)
    )


class SampleSet(NamedTuple):
    """The samples of a run, and what is known of each before it is attacked."""

    samples: list[Sample]
    latents: Tensor
    """Clean latents of the original's images (samples channels height width)."""
    before: list[Verdict]
    """What the erased model's images show without any attack."""
    dropped: int
    """Samples looked at that the original model does not show."""
    pixels: Tensor | None
    """Given pictures, −1 to 1 (samples 3 height width)."""


def choose_samples(
    original: ModelVariant,
    erased: ModelVariant,
    concept: Concept,
    criterion: Criterion,
    plan: SamplePlan,
    store: RunStore,
) -> SampleSet:
    """Draw a plan's samples until enough of them show the concept, or read from the store which those were.

    Raises:
        EffaceError: the original model shows the concept in none of them.
    """
    record = store.read("samples")
    if record is None:
        choose = _given if plan.pictures else _draw
        record = choose(original, erased, concept, criterion, plan, store)
        store.write("samples", record.data, record.tensors)
    return SampleSet(
        samples=[Sample.from_json(data) for data in record.data["samples"]],
        latents=record.tensors["latents"],
        before=[Verdict(**data) for data in record.data["before"]],
        dropped=record.data["dropped"],
        pixels=record.tensors.get("pixels"),
    )


def _draw(
    original: ModelVariant,
    erased: ModelVariant,
    concept: Concept,
    criterion: Criterion,
    plan: SamplePlan,
    store: RunStore,
) -> Record:
    """The samples that the original model shows, with their latents, and what the erased model draws of them."""
    kept: list[Sample] = []
    latents: list[Tensor] = []
    looked = 0
    size = min(DRAWN, plan.count)
    for start in range(0, len(plan.samples), size):
        if len(kept) == plan.count:
            break
        batch = plan.samples[start : start + size]
        with original.attached() as model:
            drawn = sample_latents(model, [s.prompt for s in batch], [s.seed for s in batch], plan.settings, len(batch))
            images = model.decode(drawn)
        looked += len(batch)
        for sample, latent, image, verdict in zip(batch, drawn, images, criterion(images), strict=True):
            if verdict.shown and len(kept) < plan.count:
                store.save_image(len(kept), "original", image)
                kept.append(sample)
                latents.append(latent)
    if not kept:
        raise EffaceError(
            f"the original model shows {concept.name!r} in none of {looked} pictures: there is nothing to bring back; "
            "give other prompts or another judge."
        )
    with erased.attached() as model:
        after = model.draw(
            [s.prompt for s in kept], seeds=[s.seed for s in kept], batch=DRAWN, checked=False, **plan.settings
        )
    for number, image in enumerate(after):
        store.save_image(number, "erased", image)
    data = {
        "samples": [asdict(sample) for sample in kept],
        "before": [verdict._asdict() for verdict in criterion(after)],
        "dropped": looked - len(kept),
    }
    return Record(data, {"latents": torch.stack(latents)})


def _given(
    original: ModelVariant,
    erased: ModelVariant,
    concept: Concept,
    criterion: Criterion,
    plan: SamplePlan,
    store: RunStore,
) -> Record:
    """Those of the given pictures that show the concept; what the erased model draws of a prompt alone is not asked."""
    kept: list[Sample] = []
    images: list[Image.Image] = []
    pictures = [read_picture(Path(path)) for path in plan.pictures]
    for sample, picture, verdict in zip(plan.samples, pictures, criterion(pictures), strict=False):
        if verdict.shown and len(kept) < plan.count:
            store.save_image(len(kept), "original", picture)
            kept.append(sample)
            images.append(picture)
    if not kept:
        raise EffaceError(
            f"none of the {len(pictures)} given pictures shows {concept.name!r} to the judge: give others, or another judge."
        )
    side = usual_side(original.model.pipeline) or images[0].width
    pixels = resize_square(images, side, "bicubic") / 127.5 - 1
    with original.attached() as model:
        latents = compressed(model, pixels)
    unknown = Verdict(shown=False, label="", score=0.0, intact=False)
    data = {
        "samples": [asdict(sample) for sample in kept],
        "before": [unknown._asdict() for _ in kept],
        "dropped": min(len(pictures), len(plan.samples)) - len(kept),
    }
    return Record(data, {"latents": latents.contiguous(), "pixels": pixels})
