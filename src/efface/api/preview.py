"""A sheet of one erasure: before and after, the concept first, then what should stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.concepts.sample import evenly_spaced
from efface.erasures import Erasure
from efface.io.images import save_picture
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.report.grid import image_grid


def preview(pipeline: Any, erasure: Erasure, path: Path, *, sampling: Sampling = Sampling(), seed: int = 0) -> None:
    """Draw up to four prompts of the concept and four retained ones, before and after, and write the sheet.

    Args:
        pipeline: the model, with nothing attached that should not be in the images.
        erasure: what is compared.
        path: PNG file to write.
        sampling: how every image is drawn; the model's usual way by default.
        seed: of all images.
    """
    model = Model(pipeline)
    concept = erasure.provenance.concepts[0]
    keep = erasure.provenance.keep or concept.keep
    prompts = [*evenly_spaced(concept.prompts(), 4), *evenly_spaced(keep, 4)]
    seeds = [seed] * len(prompts)
    settings = sampling.settings(pipeline)
    before = model.draw(prompts, seeds=seeds, **settings)
    with erasure.attached(pipeline):
        after = model.draw(prompts, seeds=seeds, **settings)
    save_picture(image_grid([before, after], columns=prompts, labels=["before", "after"]), path)
