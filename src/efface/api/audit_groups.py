"""What an audit draws and how it is compared: groups of prompts, and what their images show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from efface.api.card import Group, GroupResult
from efface.concepts.concept import Concept
from efface.concepts.sample import Sample, evenly_spaced
from efface.judges import Judge
from efface.judges.criterion import Verdict, verdicts_on
from efface.metrics.rates import paired, rate
from efface.models.model import Model
from efface.models.neighbours import neighbours


def audit_groups(
    model: Model, concepts: Sequence[Concept], judge: Judge | None, indirect: Sequence[str] = (), *, most: int = 8
) -> list[Group]:
    """The concepts, their aliases, prompts that mean them, their nearest neighbours in the model's own text space, and what
    else is retained."""
    classes = set(judge.classes) if judge else set()
    retained = classes - {c.name for c in concepts}

    def of(concept: Concept, prompt: str) -> Sample:
        return Sample(prompt, shows=(concept.name,) if concept.name in classes else ())

    def beside(prompt: str) -> Sample:
        return Sample(prompt, shows=_class_in(prompt, retained))

    each = max(1, most // len(concepts))
    aliases = [of(c, prompt) for c in concepts for a in c.aliases for prompt in evenly_spaced(c.prompts(a), 2)]
    near = [prompt for c in concepts for prompt in neighbours(model, c, most, concepts)]
    near = list(dict.fromkeys(near))[:most]
    kept = list(dict.fromkeys(prompt for c in concepts for prompt in c.keep if prompt not in near))
    groups = {
        "concept": [of(c, prompt) for c in concepts for prompt in evenly_spaced(c.prompts(), each)],
        "aliases": aliases[:most],
        "indirect": [of(concepts[0], prompt) for prompt in indirect],
        "neighbours": [beside(prompt) for prompt in near],
        "unrelated": [beside(prompt) for prompt in evenly_spaced(kept, most)],
    }
    return [Group(name, tuple(dict.fromkeys(samples))) for name, samples in groups.items() if samples]


def compare(
    name: str,
    samples: Sequence[Sample],
    before: Sequence[Any],
    after: Sequence[Any],
    judge: Judge | None,
    anything: bool = False,
) -> GroupResult:
    """Judge and compare the images of one group.

    Args:
        name: of the group.
        samples: one for each image.
        before: images of the unerased model.
        after: images of the erased model.
        judge: says what images show; a sample that it has no class for is only compared.
        anything: ask the judge, a detector, of such samples whether they show anything that it finds.
    """
    clusters = {prompt: number for number, prompt in enumerate(dict.fromkeys(s.prompt for s in samples))}
    judged = [i for i, s in enumerate(samples) if judge is not None and (anything or s.shows)]
    verdicts: dict[str, tuple[Verdict | None, ...]] = {}
    for side, images in (("before", before), ("after", after)):
        said = verdicts_on(judge, [images[i] for i in judged], [samples[i].concept for i in judged]) if judge else []
        by_image = dict(zip(judged, said, strict=True))
        verdicts[side] = tuple(by_image.get(i) for i in range(len(samples)))
    prompts = [clusters[samples[i].prompt] for i in judged]
    was, now = ([v for v in verdicts[side] if v is not None] for side in ("before", "after"))
    shown_before, shown_after = ([v.shown for v in side] for side in (was, now))
    distances = [float(np.abs(_array(a) - _array(b)).mean()) / 255 for a, b in zip(before, after, strict=True)]
    return GroupResult(
        name=name,
        samples=tuple(samples),
        before=tuple(before),
        after=tuple(after),
        verdicts_before=verdicts["before"],
        verdicts_after=verdicts["after"],
        shown_before=rate(shown_before, prompts) if judged else None,
        shown_after=rate(shown_after, prompts) if judged else None,
        change=paired(shown_before, shown_after, prompts) if judged else None,
        intact=rate([v.intact for v in now], prompts) if judged else None,
        distances=tuple(distances),
    )


def _class_in(prompt: str, classes: Collection[str]) -> tuple[str, ...]:
    """The longest class that a prompt names, as whole words; nothing where it names none."""
    padded = f" {prompt} "
    longest = max((name for name in classes if f" {name} " in padded), key=len, default=None)
    return () if longest is None else (longest,)


def _array(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32)
