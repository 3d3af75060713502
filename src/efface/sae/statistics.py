"""Which latents speak of a concept: mean activations by concept and noise level, the published score, the selection.

SAeUron (arXiv 2501.18052, eq. 4 to 6). Levels are the denoiser's timesteps, so that statistics taken with one scheduler
and number of steps serve any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from efface.concepts.sample import Labelled
from efface.errors import EffaceError, UsageError
from efface.io.atomic import write_atomically
from efface.io.tensor_file import open_tensors, read_json, seal
from efface.models.model import Model
from efface.sae.autoencoder import Code, Coder
from efface.sae.harvest import HarvestConfig, captured

DELTA = 1e-8
"""Keeps the score finite at levels where nothing is active."""


@dataclass(frozen=True)
class Statistics:
    """Mean activations of one site's latents, by concept and noise level."""

    concepts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Kind of each concept; concepts are compared with the others of their kind."""
    levels: Tensor
    """Timesteps (levels,), falling."""
    means: Tensor
    """Mean over pictures of the mean over positions (concepts levels latents)."""
    cutoff: Tensor
    """Mean of the least activation among a position's active ones (levels,): stands for top-k membership in fast mode."""
    pictures: int
    """Drawn for them."""

    def of(self, concept: str) -> Tensor:
        """μ(·, ·, D_c) of a concept (levels latents); raises UsageError for one without pictures."""
        if concept not in self.concepts:
            raise UsageError(
                f"there are no statistics of {concept!r}: expected one of {', '.join(self.concepts[:8])}…, "
                "or pictures of it (`efface sae features`)."
            )
        return self.means[self.concepts.index(concept)]

    def others(self, concept: str) -> Tensor:
        """μ(·, ·, D_¬c): mean over the other concepts of its kind (levels latents)."""
        kind = self.kinds[self.concepts.index(concept)]
        chosen = [
            i
            for i, (name, k) in enumerate(zip(self.concepts, self.kinds, strict=True))
            if k == kind and name != concept
        ]
        if not chosen:
            raise UsageError(
                f"{concept!r} is the only {kind} with statistics: give pictures of others to compare it with."
            )
        return self.means[chosen].mean(0)

    def everything(self, concept: str) -> Tensor:
        """μ(·, ·, D): mean over all concepts of its kind, itself included (levels latents)."""
        kind = self.kinds[self.concepts.index(concept)]
        return self.means[[i for i, k in enumerate(self.kinds) if k == kind]].mean(0)

    def scores(self, concept: str) -> Tensor:
        """The share of all activity that a latent has for the concept, less its share for the others (levels latents)."""
        own, others = self.of(concept), self.others(concept)
        return own / (own.sum(1, keepdim=True) + DELTA) - others / (others.sum(1, keepdim=True) + DELTA)

    def save(self, path: Path) -> None:
        """Write one safetensors file, means in half precision and only those that are not zero."""
        header = {"concepts": self.concepts, "kinds": self.kinds, "pictures": self.pictures}
        header["latents"] = self.means.shape[2]
        tensors = {"levels": self.levels, "cutoff": self.cutoff, **sparse(self.means.half())}
        write_atomically(path, seal(tensors, {"statistics": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote; raises EffaceError for anything else."""
        found = open_tensors(path, "statistics")
        try:
            if not found.sealed and set(found.metadata) != {"statistics"}:
                raise ValueError("it has lost its checksum")
            header = read_json(found.metadata["statistics"])
            concepts, kinds = tuple(header["concepts"]), tuple(header["kinds"])
            levels, cutoff = found.tensors["levels"].float(), found.tensors["cutoff"].float()
            means = dense(found.tensors, (len(concepts), len(levels), header["latents"])).float()
            shapes = levels.ndim == 1 and levels.shape == cutoff.shape
            texts = all(isinstance(text, str) for text in (*concepts, *kinds)) and len(kinds) == len(concepts)
            if not shapes or not texts or type(header["pictures"]) is not int or not len(levels):
                raise ValueError("its parts do not fit")
        except (KeyError, TypeError, ValueError) as error:
            raise EffaceError(f"{path} is missing, damaged or holds no statistics: make them again.") from error
        return cls(concepts, kinds, levels, means, cutoff, header["pictures"])


MOST = 1 << 28
"""Means of a statistics file at most: a forged header may ask for more memory than there is."""


def sparse(means: Tensor) -> dict[str, Tensor]:
    """Means (concepts levels latents) as three tensors: how many of each row are not zero, which they are, and their values."""
    rows = means.flatten(0, 1)
    row, latents = rows.nonzero(as_tuple=True)
    small = torch.int16 if means.shape[2] <= torch.iinfo(torch.int16).max else torch.int32
    counts = torch.bincount(row, minlength=len(rows)).int()
    return {"counts": counts, "latents": latents.to(small), "values": rows[row, latents].clone()}


def dense(tensors: Mapping[str, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The means that `sparse` took apart; raises ValueError where the parts do not fit."""
    counts, latents, values = (tensors[name] for name in ("counts", "latents", "values"))
    concepts, levels, size = shape
    whole = not counts.is_floating_point() and not latents.is_floating_point() and values.is_floating_point()
    fit = counts.shape == (concepts * levels,) and latents.shape == values.shape == (int(counts.sum()),)
    if not whole or not fit or type(size) is not int or not 0 < concepts * levels * size <= MOST:
        raise ValueError("its means do not fit")
    if (counts < 0).any() or (latents < 0).any() or (latents >= size).any():
        raise ValueError("its means lie outside")
    means = torch.zeros(concepts * levels, size, dtype=values.dtype)
    means[torch.repeat_interleave(counts.long()), latents.long()] = values
    return means.view(shape)


class Choice(NamedTuple):
    """A latent that was chosen for a concept, and why."""

    latent: int
    levels: int
    """At how many noise levels."""
    score: float
    """Its mean score over those levels."""
    own: float
    """Its mean activation on the concept's pictures."""
    others: float
    """And on those of the others."""


def choices(measured: Statistics, concept: str, chosen: Tensor) -> list[Choice]:
    """Why latents were chosen for a concept, given as a mask (levels latents); those of most levels first."""
    scores, own, others = measured.scores(concept), measured.of(concept), measured.others(concept)
    found = []
    for latent in chosen.any(0).nonzero().squeeze(1).tolist():
        on = chosen[:, latent]
        means = [float(table[on, latent].mean()) for table in (scores, own, others)]
        found.append(Choice(latent, int(on.sum()), *(round(value, 6) for value in means)))
    return sorted(found, key=lambda c: (-c.levels, -c.score))


def percentile_count(latents: int, percentile: float) -> int:
    """How many of so many latents lie above a percentile of their scores (paper: 99.999, 99.995, 99.99 of 20,480)."""
    if not 0 < percentile < 100:
        raise UsageError(f"the percentile is {percentile}; expected a number between 0 and 100.")
    return max(1, -int(-latents * (100 - percentile) / 100 // 1))


def select(scores: Tensor, count: int) -> Tensor:
    """F_c(t): the `count` latents with the highest scores above 0 at each level, as a mask (levels latents)."""
    best = scores.topk(min(count, scores.shape[1]), dim=1)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best.indices, best.values > 0)


def statistics(
    model: Model,
    coders: dict[str, Coder],
    pictures: Sequence[Labelled],
    kinds: dict[str, str],
    config: HarvestConfig,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Statistics]:
    """Draw pictures once and take the statistics of every site's autoencoder from them, nothing else being kept.

    Args:
        model: draws them.
        coders: site name -> autoencoder.
        pictures: what is drawn; those of one concept may be any number.
        kinds: concept -> kind.
        config: steps, guidance, batch; its sites are those of the coders.
        report: called with the number of pictures drawn so far.

    Raises:
        UsageError: a concept has no picture.
    """
    names = tuple(kinds)
    shown = {concept for picture in pictures for concept in picture.concepts}
    lacking = [name for name in names if name not in shown]
    if lacking or not pictures:
        raise UsageError(f"there is no picture of {(lacking or ['any concept'])[0]!r}: give prompts that show it.")
    sums = {site: _Sums(len(names), coder) for site, coder in coders.items()}
    levels: list[float] = []
    for start in range(0, len(pictures), config.batch):
        batch = pictures[start : start + config.batch]
        member = torch.tensor([[float(name in p.concepts) for p in batch] for name in names])
        steps = captured(model, [p.prompt for p in batch], [p.seed for p in batch], config)
        for number, step in enumerate(steps):
            if start == 0:
                levels.append(step.level)
            for site, states in step.states.items():
                sums[site].add(number, states, member)
        report(start + len(batch))
    counts = torch.tensor([float(sum(name in p.concepts for p in pictures)) for name in names])
    grid = torch.tensor(levels)
    return {
        site: Statistics(
            names, tuple(kinds.values()), grid, torch.stack(s.means, 1) / counts[:, None, None],
            torch.tensor(s.cutoffs) / len(range(0, len(pictures), config.batch)), len(pictures),
        )
        for site, s in sums.items()
    }  # fmt: skip


class _Sums:
    """Running sums of one site."""

    def __init__(self, concepts: int, coder: Coder):
        self.coder, self.concepts = coder.at_inference(), concepts
        self.means: list[Tensor] = []
        self.cutoffs: list[float] = []

    @torch.no_grad()
    def add(self, step: int, states: Tensor, member: Tensor) -> None:
        """Add the activations (batch tokens width) of pictures that show the concepts `member` (concepts batch)."""
        if step == len(self.means):
            self.means.append(torch.zeros(self.concepts, self.coder.config.latents))
            self.cutoffs.append(0.0)
        batch, tokens = states.shape[:2]
        code = self.coder.encode(states.flatten(0, 1))
        self.means[step] += member @ spatial_means(code, batch, tokens, self.coder.config.latents).cpu()
        self.cutoffs[step] += float(least_active(code).mean())


def spatial_means(code: Code, batch: int, tokens: int, latents: int) -> Tensor:
    """Mean over positions of every latent (batch latents), of a code whose rows are (batch tokens)."""
    places = code.rows.div(tokens, rounding_mode="floor") * latents + code.latents
    return (
        torch.zeros(batch * latents).index_add_(0, places.cpu(), code.values.float().cpu()).view(batch, latents)
        / tokens
    )


def least_active(code: Code) -> Tensor:
    """The least activation of each vector that has any (rows,)."""
    count = len(code.offsets) - 1
    least = torch.full((count,), float("inf"), device=code.values.device, dtype=code.values.dtype)
    least = least.scatter_reduce(0, code.rows, code.values, "amin")
    return least[least.isfinite()]
