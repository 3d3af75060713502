"""A sheet of one erasure: before and after, every concept first, then what should stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.concepts.sample import evenly_spaced
from efface.erasures import Erasure
from efface.io.images import save_picture
from efface.io.progress import Progress, drawing, silent
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.report.grid import image_grid

FEW = 4
"""Prompts of the concepts, at least one of each, and retained prompts."""


def preview(
    pipeline: Any,
    erasure: Erasure,
    path: Path,
    *,
    sampling: Sampling = Sampling(),
    progress: Progress = silent,
) -> None:
    """Draw prompts of every concept and up to four retained ones, before and after, and write the sheet.

    Args:
        pipeline: the model, with nothing attached that should not be in the images.
        erasure: what is compared.
        path: PNG file to write.
        sampling: how every image is drawn, all of them with its seed (0 by default); the model's usual way by default.
        progress: told the share that is done and a line about it.
    """
    model = Model(pipeline)
    prompts = preview_prompts(erasure)
    seeds = [sampling.seed or 0] * len(prompts)
    settings = sampling.settings(pipeline)
    with drawing(progress, 2 * len(prompts)):
        before = model.draw(prompts, seeds=seeds, **settings)
        with erasure.attached(pipeline):
            after = model.draw(prompts, seeds=seeds, **settings)
    columns = [prompt if prompt.strip() else "(blank)" for prompt in prompts]
    save_picture(image_grid([before, after], columns=columns, labels=["before", "after"]), path)


def preview_prompts(erasure: Erasure) -> list[str]:
    """At least one prompt of every concept, four where there are few concepts, then up to four retained ones."""
    concepts = erasure.provenance.concepts
    each = max(1, FEW // len(concepts))
    own = [prompt for concept in concepts for prompt in evenly_spaced(concept.prompts(), each)]
    keep = erasure.provenance.keep or tuple(prompt for concept in concepts for prompt in concept.keep)
    return [*own, *evenly_spaced([prompt for prompt in keep if prompt.strip()] or keep, FEW)]
