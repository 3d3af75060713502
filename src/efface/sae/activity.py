"""Mean activations of latents on each of many labelled pictures, kept in pieces on disk: a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from efface.concepts.sample import Sample
from efface.errors import EffaceError
from efface.io.atomic import write_atomically
from efface.io.progress import Progress, drawing, silent
from efface.io.tensor_file import open_tensors, serialize
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.files import sae_hash
from efface.sae.harvest import HarvestConfig, capture, in_pieces
from efface.sae.shards import plan
from efface.sae.sparse_means import dense, sparse
from efface.sae.statistics import spatial_means


def activity(
    model: Model,
    saes: Mapping[str, SparseAutoencoder],
    samples: Sequence[Sample],
    config: HarvestConfig,
    folder: Path,
    *,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Site name -> mean over positions and steps of every latent on each picture (pictures latents).

    Args:
        model: draws them.
        saes: site name -> autoencoder.
        samples: what is drawn.
        config: steps, guidance, and the pictures of a piece; its sites are those of `saes`.
        folder: in which the pieces of this run get a folder of their own, named by all that determines them.
        progress: told the share that is drawn.

    Raises:
        EffaceError: a piece is damaged, or a site gave values that are not finite.
    """
    within = folder / _digest(model, saes, samples, config)
    within.mkdir(parents=True, exist_ok=True)
    pieces = [range(i, min(i + config.batch, len(samples))) for i in range(0, len(samples), config.batch)]
    done = sum(len(piece) for piece in pieces if _path(within, piece).exists())
    with drawing(progress, len(samples), drawn=done):
        for piece in pieces:
            if not _path(within, piece).exists():
                _draw(model, saes, [samples[i] for i in piece], config, _path(within, piece))
    read = [_read(_path(within, piece), saes, len(piece)) for piece in pieces]
    return {site: torch.cat([part[site] for part in read]) for site in saes}


def _draw(
    model: Model, saes: Mapping[str, SparseAutoencoder], samples: Sequence[Sample], config: HarvestConfig, path: Path
) -> None:
    """Draw one piece and write it."""
    at_inference = {site: sae.at_inference() for site, sae in saes.items()}

    def draw(numbers: range) -> dict[str, Tensor]:
        batch = [samples[i] for i in numbers]
        steps = [
            {site: _means(at_inference[site], states) for site, states in step.states.items()}
            for step in capture(model, [s.prompt for s in batch], [s.seed for s in batch], config, saes=saes)
        ]
        return {site: torch.stack([step[site] for step in steps]).mean(0) for site in saes}

    drawn = in_pieces(model, len(samples), config, draw)
    tensors = {}
    for number, site in enumerate(saes):
        means = torch.cat([part[site] for part in drawn])
        tensors |= {f"{number}|{name}": tensor for name, tensor in sparse(means[:, None]).items()}
    write_atomically(path, serialize(tensors, {}))


@torch.no_grad()
def _means(sae: SparseAutoencoder, states: Tensor) -> Tensor:
    """Mean over positions of every latent (batch latents) of states (batch tokens width)."""
    batch, tokens = states.shape[:2]
    return spatial_means(sae.encode(states.flatten(0, 1)), batch, tokens, sae.config.latents)


def _read(path: Path, saes: Mapping[str, SparseAutoencoder], pictures: int) -> dict[str, Tensor]:
    """Site name -> what a piece holds of it (pictures latents)."""
    tensors = open_tensors(path, "activations of pictures").tensors
    found = {}
    for number, (site, sae) in enumerate(saes.items()):
        own = {name.partition("|")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{number}|")}
        try:
            found[site] = dense(own, (pictures, 1, sae.config.latents))[:, 0]
        except (KeyError, ValueError) as error:
            raise EffaceError(
                f"{path} is damaged: delete it and run the command again, which makes it anew."
            ) from error
    return found


def _path(folder: Path, numbers: range) -> Path:
    """Path of the piece of these pictures."""
    return folder / f"pictures-{numbers.start:06}.safetensors"


def _digest(
    model: Model, saes: Mapping[str, SparseAutoencoder], samples: Sequence[Sample], config: HarvestConfig
) -> str:
    """Of everything that determines the activations; not of how many are drawn at a time, but of how they are parted."""
    drawn = plan(model, [sample.prompt for sample in samples], config)
    drawn |= {"seeds": [sample.seed for sample in samples], "saes": {site: sae_hash(sae) for site, sae in saes.items()}}
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]
