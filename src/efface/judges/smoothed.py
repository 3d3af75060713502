"""A judge whose verdict no small change of a picture can turn: randomised smoothing with a denoiser.

Sources: randomised smoothing and its certificate, Cohen et al., ICML 2019, arXiv 1902.02918; a denoiser before the classifier,
Salman et al., NeurIPS 2020, arXiv 2003.01908, and by a diffusion model, Carlini et al., ICLR 2023, arXiv 2206.10550.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from efface.errors import UsageError
from efface.io.images import images_of, to_levels
from efface.judges.base import Judge, Verdicts

Denoiser = Callable[[Tensor], Tensor]
"""Pixels in 0 to 1 with normal noise (batch 3 height width) to pixels without, in 0 to 1."""
ABSTAINS = "abstains"
"""Label of a picture of which no class is sure to be the answer to most of its noisy copies."""
_BATCH = 16


class Certificate(NamedTuple):
    """What is known of a smoothed verdict."""

    label: str
    """The class, or `ABSTAINS`."""
    probability: float
    """Lower bound on the share of noisy copies that are judged so; below ½ the judge abstains."""
    radius: float
    """ℓ2 distance, over pixels in 0 to 1, within which no picture has another label; 0 where it abstains."""


class SmoothedJudge:
    """Says what a judge says of most noisy, denoised copies of a picture, or abstains.

    The certificate belongs to the noise on the picture, whatever follows it. The copies that suggest the class and those that
    count it are different draws, as the bound needs; they are determined by `seed` and the picture. A detector's classes are
    counted where they are sure to be found in most copies.

    Args:
        judge: what is smoothed.
        denoise: takes the noise of this `sigma` away.
        sigma: standard deviation of the noise, of pixels in 0 to 1.
        guesses: copies that suggest the class.
        count: copies that count it; the largest radius that can be shown is 1.82 σ with 200, 2.46 σ with 1,000.
        alpha: probability that a bound is wrong.
        seed: of the noise.

    Raises:
        UsageError: sigma is not positive, there are no copies, or alpha is no probability.
    """

    def __init__(
        self,
        judge: Judge,
        denoise: Denoiser,
        sigma: float,
        *,
        guesses: int = 100,
        count: int = 200,
        alpha: float = 0.001,
        seed: int = 0,
    ):
        if not 0 < sigma < math.inf:
            raise UsageError(f"the noise of a smoothed judge is {sigma}; expected a positive number such as 0.12.")
        if min(guesses, count) < 1 or not 0 < alpha < 1:
            raise UsageError(
                f"a smoothed judge was given {guesses} and {count} copies at alpha {alpha}; expected at least 1 of each and a "
                "probability."
            )
        self.judge, self.denoise, self.sigma = judge, denoise, sigma
        self.guesses, self.count, self.alpha, self.seed = guesses, count, alpha, seed
        self.classes = judge.classes
        self.detects = judge.detects
        self.name = f"smooth-{sigma:g}-{guesses}-{count}-{alpha:g}-{seed}-{judge.name}"

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size; a score is the share of copies of each class."""
        labels, scores, intact, counts = [], [], [], []
        for image in images:
            generator = self._generator(image)
            first = self._votes(image, self.guesses, generator)
            votes = self._votes(image, self.count, generator)
            labels.append(self._certificate(first, votes).label)
            scores.append(votes.hits / self.count)
            intact.append(votes.intact > self.count / 2)
            counts.append(torch.tensor([self._lower(int(hits)) > 0.5 for hits in votes.hits]).int())
        width = len(self.classes)
        return Verdicts(
            labels=tuple(labels),
            scores=torch.stack(scores) if scores else torch.zeros(0, width),
            intact=torch.tensor(intact, dtype=torch.bool),
            counts=torch.stack(counts) if self.detects and counts else None,
        )

    def certify(self, images: Sequence[Image.Image]) -> list[Certificate]:
        """Label and radius of each picture: of a detector, the class that most copies show, and how far it stays found."""
        found = []
        for image in images:
            generator = self._generator(image)
            first = self._votes(image, self.guesses, generator)
            found.append(self._certificate(first, self._votes(image, self.count, generator)))
        return found

    def _certificate(self, first: Votes, votes: Votes) -> Certificate:
        """The class that the first copies suggest, counted in the others."""
        guess = int(first.hits.argmax())
        probability = self._lower(int(votes.hits[guess]))
        if not probability > 0.5:
            return Certificate(ABSTAINS, probability, 0.0)
        return Certificate(self.classes[guess], probability, self.sigma * NormalDist().inv_cdf(probability))

    def _lower(self, hits: int) -> float:
        return clopper_pearson_lower(hits, self.count, self.alpha)

    def _generator(self, image: Image.Image) -> torch.Generator:
        """A generator of the picture's own, so that verdicts depend on no neighbour."""
        digest = hashlib.sha256(repr((self.seed, image.size)).encode() + image.convert("RGB").tobytes()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)

    @torch.no_grad()
    def _votes(self, image: Image.Image, count: int, generator: torch.Generator) -> Votes:
        """What the judge says of so many noisy copies."""
        clean = to_levels(image) / 255
        hits, intact = torch.zeros(len(self.classes)), 0
        for start in range(0, count, _BATCH):
            size = min(_BATCH, count - start)
            noise = torch.randn(size, *clean.shape, generator=generator)
            denoised = self.denoise(clean + self.sigma * noise)
            judged = self.judge(images_of(denoised.cpu() * 2 - 1))
            intact += int(judged.intact.sum())
            if judged.counts is not None:
                hits += (judged.counts.cpu() > 0).sum(0)
            else:
                for label in judged.labels:
                    hits[self.classes.index(label)] += 1
        return Votes(hits, intact)


class Votes(NamedTuple):
    """What a judge says of noisy copies of a picture."""

    hits: Tensor
    """Copies of each class (classes,)."""
    intact: int
    """Copies that are whole."""


def clopper_pearson_lower(hits: int, count: int, alpha: float) -> float:
    """The one-sided lower bound on a probability of which `hits` of `count` draws hit (Clopper and Pearson, 1934): the p with
    P(at least `hits` hits) = alpha."""
    if hits == 0:
        return 0.0
    if hits == count:
        return alpha ** (1 / count)
    k = np.arange(hits, count + 1)
    choose = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in k.tolist()]
    low, high = 0.0, hits / count
    for _ in range(60):
        p = (low + high) / 2
        tail = np.exp(np.array(choose) + k * math.log(p) + (count - k) * math.log1p(-p)).sum()
        low, high = (p, high) if tail < alpha else (low, p)
    return low
