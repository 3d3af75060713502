"""Steps and guidance where the user names none."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.families import family_of
from efface.models.metadata import metadata_of
from efface.models.model import Model, Settings


def sampling(pipeline: Any, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Arguments of `Model.draw`: the user's, those of the model's own metadata, or those of the pipeline's own call."""
    known = metadata_of(pipeline)
    usual = family_of(pipeline).standard() if known is None else (known.steps, known.guidance)
    steps = usual[0] if steps is None else steps
    guidance = usual[1] if guidance is None else guidance
    if steps < 1:
        raise UsageError(f"steps is {steps}; expected at least 1.")
    return {"steps": steps, "guidance": guidance}


def generator(*parts: int | str) -> torch.Generator:
    """A generator that these parts determine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def drawn_latents(model: Model, prompts: Sequence[str], seeds: Iterable[int], settings: Settings, batch: int) -> Tensor:
    """Clean latents of pictures (batch channels height width)."""
    seeds, found = list(seeds), []
    for i in range(0, len(prompts), batch):
        text = model.encode(prompts[i : i + batch])
        found.append(deque(model.denoised(text, seeds=seeds[i : i + batch], **settings), maxlen=1)[0][1])
    return torch.cat(found)
