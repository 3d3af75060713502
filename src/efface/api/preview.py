"""A sheet of one erasure: before and after, the concept first, then what should stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.erasures import Erasure
from efface.io.images import save_picture
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.report.grid import sheet


def preview(pipeline: Any, erasure: Erasure, path: Path, *, steps: int | None = None, seed: int = 0) -> None:
    """Draw up to four prompts of the concept and four retained ones, before and after, and write the sheet.

    Args:
        pipeline: the model, with nothing attached that should not be in the pictures.
        erasure: what is compared.
        path: PNG file to write.
        steps: denoising steps; the model's usual number by default.
        seed: of all pictures.
    """
    model = Model(pipeline)
    concept = erasure.provenance.concepts[0]
    keep = erasure.provenance.keep or concept.keep
    prompts = [*_spread(concept.prompts(), 4), *_spread(keep, 4)]
    settings = sampling(pipeline, steps, None)
    before = model.draw(prompts, seeds=[seed] * len(prompts), **settings)
    with erasure.attached(pipeline):
        after = model.draw(prompts, seeds=[seed] * len(prompts), **settings)
    save_picture(sheet([before, after], columns=prompts, labels=["before", "after"]), path)


def _spread(prompts: Any, count: int) -> list[str]:
    """At most `count` of the prompts, evenly spaced."""
    prompts = list(prompts)
    stride = max(1, len(prompts) // count)
    return prompts[::stride][:count]
