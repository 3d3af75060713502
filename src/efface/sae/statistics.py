"""Which SAE features respond to a concept: mean activations by concept and timestep, the published score, selection.

SAeUron (arXiv 2501.18052, eq. 4 to 6). Means are kept by the denoiser's timestep, so that statistics measured with one
scheduler and number of steps serve any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from efface.concepts.sample import Sample
from efface.errors import EffaceError, UsageError
from efface.io.atomic import write_atomically
from efface.io.tensor_file import open_tensors, read_json, serialize
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder, SparseCode
from efface.sae.harvest import HarvestConfig, capture, in_pieces
from efface.sae.sparse_means import dense, sparse

DELTA = 1e-8
"""Keeps the score finite at timesteps where nothing is active."""


@dataclass(frozen=True)
class Statistics:
    """Mean activations of one site's latents, by concept and timestep."""

    concepts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Kind of each concept; concepts are compared with the others of their kind."""
    timesteps: Tensor
    """Timesteps at which activations were read (timesteps,), falling."""
    means: Tensor
    """Mean over pictures of the mean over positions (concepts timesteps latents)."""
    cutoff: Tensor
    """Mean over positions of the least active latent's activation (timesteps,): stands for top-k membership in fast mode."""
    pictures: int
    """Number of pictures drawn."""
    counts: tuple[int, ...] = ()
    """Number of pictures of each concept; none where a file does not say."""
    by_picture: bool = False
    """Whether the mean over other concepts counts every picture alike, as SAeUron's public code does, instead of every concept."""

    def of(self, concept: str) -> Tensor:
        """μ(·, ·, D_c) of a concept (timesteps latents); raises UsageError for one without pictures."""
        if concept not in self.concepts:
            raise UsageError(
                f"there are no statistics of {concept!r}: expected one of {', '.join(self.concepts[:8])}…, "
                "or pictures of it (`efface sae features`)."
            )
        return self.means[self.concepts.index(concept)]

    def others(self, concept: str) -> Tensor:
        """μ(·, ·, D_¬c): mean over the other concepts of its kind (timesteps latents)."""
        kind = self.kinds[self.concepts.index(concept)]
        others = [
            i
            for i, (name, k) in enumerate(zip(self.concepts, self.kinds, strict=True))
            if k == kind and name != concept
        ]
        if not others:
            raise UsageError(
                f"{concept!r} is the only {kind} with statistics: give pictures of others to compare it with."
            )
        if not self.by_picture:
            return self.means[others].mean(0)
        weights = torch.tensor([self.counts[i] for i in others], dtype=self.means.dtype)
        return torch.tensordot(weights / weights.sum(), self.means[others], 1)

    def weighted_by_picture(self) -> Statistics:
        """The same statistics, of which the mean over other concepts counts every picture alike.

        Raises:
            EffaceError: the file does not say how many pictures each concept has.
        """
        if not self.counts:
            raise EffaceError(
                "the statistics do not say how many pictures each concept has: make them again (`efface sae features`), or "
                "weight concepts alike (--weighting concepts)."
            )
        return replace(self, by_picture=True)

    def everything(self, concept: str) -> Tensor:
        """μ(·, ·, D): mean over all concepts of its kind, itself included (timesteps latents)."""
        kind = self.kinds[self.concepts.index(concept)]
        return self.means[[i for i, k in enumerate(self.kinds) if k == kind]].mean(0)

    def scores(self, concept: str) -> Tensor:
        """The share of all activity that a latent has for the concept, less its share for the others (timesteps latents)."""
        own, others = self.of(concept), self.others(concept)
        return own / (own.sum(1, keepdim=True) + DELTA) - others / (others.sum(1, keepdim=True) + DELTA)

    def save(self, path: Path) -> None:
        """Write one safetensors file, means in half precision and only those that are not zero."""
        header = {"concepts": self.concepts, "kinds": self.kinds, "pictures": self.pictures, "counts": self.counts}
        header["latents"] = self.means.shape[2]
        tensors = {"levels": self.timesteps, "cutoff": self.cutoff, **sparse(self.means.half())}
        write_atomically(path, serialize(tensors, {"statistics": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read a file written by `save`; raises EffaceError for any other."""
        file = open_tensors(path, "statistics")
        try:
            if not file.has_checksum and set(file.metadata) != {"statistics"}:
                raise ValueError("it has lost its checksum")
            header = read_json(file.metadata["statistics"])
            concepts = tuple(header["concepts"])
            kinds = tuple(header["kinds"])
            timesteps = file.tensors["levels"].float()
            cutoff = file.tensors["cutoff"].float()
            means = dense(file.tensors, (len(concepts), len(timesteps), header["latents"])).float()
            counts = tuple(header.get("counts", ()))
            if any(type(n) is not int or n < 1 for n in counts) or len(counts) not in (0, len(concepts)):
                raise ValueError("the numbers of pictures do not match")
            shapes = timesteps.ndim == 1 and timesteps.shape == cutoff.shape
            texts = all(isinstance(text, str) for text in (*concepts, *kinds)) and len(kinds) == len(concepts)
            if not shapes or not texts or type(header["pictures"]) is not int or not len(timesteps):
                raise ValueError("tensor shapes do not match")
        except (KeyError, TypeError, ValueError) as error:
            raise EffaceError(f"{path} is missing, damaged or holds no statistics: make them again.") from error
        return cls(
            concepts=concepts,
            kinds=kinds,
            timesteps=timesteps,
            means=means,
            cutoff=cutoff,
            pictures=header["pictures"],
            counts=counts,
        )


class SelectedLatent(NamedTuple):
    """A latent that was selected for a concept, and the figures that led to it."""

    latent: int
    timesteps: int
    """Number of timesteps at which it was selected."""
    score: float
    """Mean score over those timesteps."""
    own: float
    """Mean activation on the concept's pictures."""
    others: float
    """Mean activation on pictures of the other concepts."""


def selected_latents(stats: Statistics, concept: str, mask: Tensor) -> list[SelectedLatent]:
    """The latents of a selection (timesteps latents) with their figures, those of most timesteps first."""
    scores = stats.scores(concept)
    own = stats.of(concept)
    others = stats.others(concept)
    rows = []
    for latent in mask.any(0).nonzero().squeeze(1).tolist():
        at = mask[:, latent]
        row = SelectedLatent(
            latent=latent,
            timesteps=int(at.sum()),
            score=round(float(scores[at, latent].mean()), 6),
            own=round(float(own[at, latent].mean()), 6),
            others=round(float(others[at, latent].mean()), 6),
        )
        rows.append(row)
    return sorted(rows, key=lambda row: (-row.timesteps, -row.score))


def percentile_count(latents: int, percentile: float) -> int:
    """Number of latents whose score lies above a percentile, n − 1 − ⌊p/100 · (n − 1)⌋ where no scores are equal (paper: 99.999,
    99.995, 99.99 of 20,480). The percentile is taken as it is written, since 99.9/100 · 1000 is not 999 in binary."""
    if not 0 < percentile < 100:
        raise UsageError(f"the percentile is {percentile}; expected a number between 0 and 100.")
    return latents - 1 - math.floor(Fraction(str(percentile)) / 100 * (latents - 1))


def select(scores: Tensor, count: int, only: Sequence[int] | None = None) -> Tensor:
    """F_c(t): the `count` latents with the highest scores above 0 at each timestep, as a mask (timesteps latents).

    `only` are latents that are known to be the concept's, and are chosen at all timesteps instead.
    """
    if only is not None:
        return torch.isin(torch.arange(scores.shape[1]), torch.tensor(only)).expand_as(scores)
    best = scores.topk(min(count, scores.shape[1]), dim=1)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best.indices, best.values > 0)


def statistics(
    model: Model,
    saes: dict[str, SparseAutoencoder],
    pictures: Sequence[Sample],
    kinds: dict[str, str],
    config: HarvestConfig,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Statistics]:
    """Measure the statistics of every site's autoencoder on pictures drawn once; activations are not kept.

    Args:
        model: draws them.
        saes: site name -> autoencoder.
        pictures: what is drawn; a concept may have any number of pictures.
        kinds: kind of each concept, by its name.
        config: steps, guidance, batch; its sites are those of `saes`.
        report: called with the number of pictures drawn so far.

    Raises:
        UsageError: a concept has no picture.
    """
    names = tuple(kinds)
    shown = {concept for picture in pictures for concept in picture.shows}
    lacking = [name for name in names if name not in shown]
    if lacking or not pictures:
        raise UsageError(f"there is no picture of {(lacking or ['any concept'])[0]!r}: give prompts that show it.")
    sums = {site: _Sums(len(names), sae) for site, sae in saes.items()}
    timesteps: list[float] = []

    def piece(numbers: range) -> None:
        batch = [pictures[i] for i in numbers]
        member = torch.tensor([[float(name in p.shows) for p in batch] for name in names])
        drawn = [
            (step.timestep, {site: sums[site].read(states, member) for site, states in step.states.items()})
            for step in capture(model, [p.prompt for p in batch], [p.seed for p in batch], config, saes=saes)
        ]
        for number, (timestep, read) in enumerate(drawn):  # after the last step, since a piece may be drawn again
            if numbers.start == 0:
                timesteps.append(timestep)
            for site, values in read.items():
                sums[site].add(number, *values)
        report(numbers.stop)

    batches = len(in_pieces(model, len(pictures), config, piece))
    counts = tuple(sum(name in p.shows for p in pictures) for name in names)
    return {
        site: Statistics(
            concepts=names,
            kinds=tuple(kinds.values()),
            timesteps=torch.tensor(timesteps),
            means=torch.stack(site_sums.means, 1) / torch.tensor(counts, dtype=torch.float32)[:, None, None],
            cutoff=torch.tensor(site_sums.cutoffs) / batches,
            pictures=len(pictures),
            counts=counts,
        )
        for site, site_sums in sums.items()
    }


class _Sums:
    """Running sums of one site's activations."""

    def __init__(self, concepts: int, sae: SparseAutoencoder):
        self.sae = sae.at_inference()
        self.concepts = concepts
        self.means: list[Tensor] = []
        self.cutoffs: list[float] = []

    @torch.no_grad()
    def read(self, states: Tensor, member: Tensor) -> tuple[Tensor, float]:
        """What activations (batch tokens width) of pictures that show the concepts `member` (concepts batch) add: summed means
        (concepts latents), and the mean of the least active latents."""
        batch, tokens = states.shape[:2]
        code = self.sae.encode(states.flatten(0, 1))
        means = member @ spatial_means(code, batch, tokens, self.sae.config.latents).cpu()
        return means, float(least_active(code).mean())

    def add(self, step: int, means: Tensor, cutoff: float) -> None:
        """Add what `read` found at a step."""
        if step == len(self.means):
            self.means.append(torch.zeros(self.concepts, self.sae.config.latents))
            self.cutoffs.append(0.0)
        self.means[step] += means
        self.cutoffs[step] += cutoff


def spatial_means(code: SparseCode, batch: int, tokens: int, latents: int) -> Tensor:
    """Mean over positions of every latent (batch latents), of a code whose rows are (batch tokens)."""
    flat = code.rows.div(tokens, rounding_mode="floor") * latents + code.latents
    sums = torch.zeros(batch * latents).index_add_(0, flat.cpu(), code.values.float().cpu())
    return sums.view(batch, latents) / tokens


def least_active(code: SparseCode) -> Tensor:
    """Least activation of each vector with active latents (rows,)."""
    count = len(code.offsets) - 1
    least = torch.full((count,), float("inf"), device=code.values.device, dtype=code.values.dtype)
    least = least.scatter_reduce(0, code.rows, code.values, "amin")
    return least[least.isfinite()]
