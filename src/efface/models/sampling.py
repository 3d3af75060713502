"""Steps and guidance where the user names none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.families import family_of
from efface.families.base import Side
from efface.models.metadata import metadata_of
from efface.models.model import Model, Settings


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; None is what the model itself or its metadata says."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    negative: str | None = None
    """Negative prompt."""
    side: Side = None
    """Pixels of each side, or width and height."""
    seed: int | None = None
    """Seed of the first picture, from which the others count on; None is that of the purpose."""

    def settings(self, pipeline: Any) -> Settings:
        """Arguments of `Model.draw` on a pipeline."""
        settings: Any = sampling(pipeline, self.steps, self.guidance)
        return settings | {k: v for k, v in (("negative", self.negative), ("side", self.side)) if v is not None}


def sampling(pipeline: Any, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Arguments of `Model.draw`: the user's, those of the model's own metadata, or those of the pipeline's own call."""
    usual = metadata_of(pipeline) or family_of(pipeline).standard()
    steps = usual.steps if steps is None else steps
    guidance = usual.guidance if guidance is None else guidance
    if steps < 1:
        raise UsageError(f"steps is {steps}; expected at least 1.")
    return {"steps": steps, "guidance": guidance}


def usual_side(pipeline: Any) -> int | None:
    """Pixels of a side where the user says nothing; None where the pipeline does not say."""
    family = family_of(pipeline)
    scale = getattr(pipeline, "vae_scale_factor", None)
    if scale is None:
        return None
    own = family.latent_shape(None)
    if getattr(pipeline, "vae", None) is None:  # erasing needs none
        return own[1] * scale
    # Some families pack four cells into one.
    return next((side for side in (own[1] * scale, own[1] * scale * 2) if family.latent_shape(side) == own), None)


def scheduler_digest(pipeline: Any) -> str:
    """sha256 over the class and the configuration of a pipeline's scheduler."""
    scheduler = pipeline.scheduler
    # Private entries list which values are defaults, in an order that changes from process to process.
    config = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    described = json.dumps([type(scheduler).__name__, config], sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()


def generator(*parts: int | str) -> torch.Generator:
    """A generator that these parts determine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def sample_latents(
    model: Model, prompts: Sequence[str], seeds: Iterable[int], settings: Settings, batch: int
) -> Tensor:
    """Clean latents of one picture for each prompt (prompts channels height width), `batch` at a time."""
    seeds = list(seeds)
    latents = []
    for i in range(0, len(prompts), batch):
        text = model.encode(prompts[i : i + batch])
        latents.append(model.latents(text, seeds=seeds[i : i + batch], **settings))
    return torch.cat(latents)
