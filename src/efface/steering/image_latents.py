"""Latents of image features that respond to a concept: pictures from folders, an autoencoder of them, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from efface.erasures.image_change import ImageGate
from efface.errors import UsageError
from efface.io.images import read_picture
from efface.io.picture_folder import pictures_in
from efface.models.image_sites import ImageSite
from efface.models.vlm import VisionLanguageModel
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.image_stream import ImageStream
from efface.sae.lookup import open_sae
from efface.sae.statistics import Statistics, selected_latents
from efface.sae.train import train
from efface.steering.tables import LatentTables, latent_tables

Pictures = Mapping[str, Sequence[Image.Image]]
"""Name of what pictures show, "" where nobody says -> the pictures."""
SHRINKAGE = 0.1
"""Weight of the identity in the covariance of a discriminant, which a few pictures determine badly."""
FOLDS = 5
"""Parts of the pictures, each of which is held back once."""
TINY = 1e-6
"""Least spread of pictures along a discriminant."""
ROUND = 64
"""Pictures of a round of training."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How latents are chosen, and of which autoencoder."""

    coder: str | None
    """Folder of the autoencoder; None trains one."""
    select: str
    """`score`: by SAeUron's score; `mean`: by the mean activation on the concept's pictures."""
    count: int
    """Latents of a concept."""
    gain: float
    """Factor of an active one."""
    mode: str
    """Of the edit."""
    training: SAETrainConfig
    """Of an autoencoder that is trained."""


def read_pictures(images: str | None, others: str | None, names: Sequence[str]) -> dict[str, list[Image.Image]]:
    """Pictures of every concept, and of other things by what they show.

    Args:
        images: folder of the concepts' pictures; in sub-folders by their names where there are several concepts.
        others: folder of pictures without them; None takes the other sub-folders of `images`.
        names: of the concepts.

    Raises:
        UsageError: no folder was named, or there are no pictures of a concept, or none without it.
        EffaceError: a folder or a picture cannot be read.
    """
    if images is None:
        raise UsageError("SAUCE learns a concept from pictures: name a folder of them (--images).")
    found: dict[str, list[Image.Image]] = {name: [] for name in names}
    for file in pictures_in(images):
        loose = not file.name and len(names) == 1
        if loose or file.name in names or others is None:
            found.setdefault(names[0] if loose else file.name, []).append(read_picture(file.path))
    for file in () if others is None else pictures_in(others):
        if file.name not in names:
            found.setdefault(file.name, []).append(read_picture(file.path))
    if lacking := [name for name in names if not found[name]]:
        raise UsageError(f"{images} holds no pictures of {lacking[0]!r}: expected a sub-folder of that name.")
    if len(found) == len(names):
        raise UsageError(
            f"there are no pictures without {' and '.join(names)} to compare with: name a folder of them (--others)."
        )
    return found


def open_or_train(
    vlm: VisionLanguageModel, site: ImageSite, pictures: Pictures, choice: Choice
) -> tuple[SparseAutoencoder, dict[str, str]]:
    """The site's autoencoder, and how an erasure's header names it; nothing where it was trained here and is kept nowhere.

    Raises:
        UsageError: a mode that needs the whole autoencoder later, and none on disk.
    """
    if choice.coder is not None:
        sae, sha256 = open_sae(choice.coder, site.name)
        return sae, {"sha256": sha256, "source": choice.coder}
    if choice.mode != "fast":
        raise UsageError(
            f"mode {choice.mode} needs the autoencoder whenever the erasure is used: train one that stays (efface sae train MODEL "
            "--pictures FOLDER) and name it (--coder)."
        )
    every = [picture for shown in pictures.values() for picture in shown]
    with TemporaryDirectory() as folder:
        stream = ImageStream(vlm, every, [site], count=min(ROUND, len(every)), seed=choice.training.seed)
        sae = train(stream, choice.training, Path(folder), device=vlm.device)[site.name]
    return sae.requires_grad_(False), {}


def concept_tables(
    stats: Statistics, sae: SparseAutoencoder, concept: str, choice: Choice
) -> tuple[LatentTables, list[dict[str, Any]]]:
    """The tables of a concept's latents, and the latents with their figures; raises UsageError where there is none."""
    ranked = stats.scores(concept)[0] if choice.select == "score" else stats.of(concept)[0]
    best = ranked.topk(min(choice.count, len(ranked)))
    latents = best.indices[best.values > 0].tolist()
    if not latents:
        raise UsageError(f"no latent is more active on pictures of {concept!r} than on others: give more pictures.")
    tables = latent_tables(
        stats,
        sae,
        concept,
        count=len(latents),
        gamma=choice.gain,
        gain="normalised",
        fast=choice.mode == "fast",
        only=latents,
    )
    mask = torch.isin(torch.arange(len(ranked)), torch.tensor(latents))[None]
    return tables, [row._asdict() for row in selected_latents(stats, concept, mask)]


@torch.no_grad()
def picture_gate(vlm: VisionLanguageModel, site: ImageSite, pictures: Pictures, concepts: Sequence[str]) -> ImageGate:
    """A gate that opens for pictures of the concepts and stays closed for the others, as far as their mean features tell.

    Each concept has Fisher's linear discriminant of its own pictures from all that do not show it. The threshold is as many spreads
    below the one mean as above the other, of pictures that the discriminant was not made from: every fifth at a time.

    Args:
        vlm: reads the pictures.
        site: where the edit is.
        pictures: those that it was made from.
        concepts: names of what is erased.
    """
    means = {name: vlm.features(shown, site).double().mean(1) for name, shown in pictures.items()}
    directions, thresholds = [], []
    for concept in concepts:
        own, others = means[concept], torch.cat([rows for name, rows in means.items() if name != concept])
        high, low = torch.zeros(len(own)).double(), torch.zeros(len(others)).double()
        for fold in range(min(FOLDS, len(own), len(others))):
            near, far = torch.arange(len(own)) % FOLDS == fold, torch.arange(len(others)) % FOLDS == fold
            direction = discriminant(own[~near], others[~far])
            high[near], low[far] = own[near] @ direction, others[far] @ direction
        wide, narrow = (float(values.std(correction=0)) + TINY for values in (low, high))
        directions.append(discriminant(own, others))
        thresholds.append((float(high.mean()) * wide + float(low.mean()) * narrow) / (wide + narrow))
    return ImageGate(directions=torch.stack(directions).float(), thresholds=torch.tensor(thresholds))


def discriminant(own: Tensor, others: Tensor) -> Tensor:
    """Fisher's discriminant (width,) of rows from others (rows width), of unit length, the covariance drawn towards the identity."""
    apart = torch.cat([own - own.mean(0), others - others.mean(0)])
    spread = apart.T @ apart / len(apart)
    spread = (1 - SHRINKAGE) * spread + SHRINKAGE * spread.diagonal().mean() * torch.eye(len(spread)).to(spread)
    direction = torch.linalg.solve(spread, own.mean(0) - others.mean(0))
    return direction / direction.norm()
