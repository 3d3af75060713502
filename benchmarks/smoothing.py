"""The smoothed judge on pictures of the canvas: what it knows and certifies, and whether descent turns it and the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from quality import DTYPE
from torch import Tensor

from efface.api.smoothing import unerased_denoiser
from efface.concepts.sample import SEEDS, Sample, evenly_spaced
from efface.io.digest import digest_of_words
from efface.io.images import images_of
from efface.judges import embedded_judge
from efface.judges.pgd import pgd
from efface.judges.smoothed import SmoothedJudge
from efface.models.load import load
from efface.models.model import Model
from efface.models.pictures import pixels_of
from efface.models.sampling import Sampling
from efface.profiles.base import profile_of

SIGMA, RADIUS, PGD_RADIUS = 0.12, 0.2, 0.5
GUESSES = 20
"""Copies that suggest a class: enough where most agree."""
canvas = cache(lambda: load("emoji", dtype=DTYPE))
"""The embedded model, which draws and denoises in half precision."""


class Verdicts(NamedTuple):
    """What both judges say of one picture."""

    plain: bool
    """Whether the plain judge knows it."""
    clean: bool = False
    """Whether the smoothed one does."""
    radius: float = 0.0
    """In which that is certain."""
    pgd_plain: bool = False
    """Whether descent on the plain judge turns it."""
    pgd_smoothed: bool = False
    """Whether descent through noise and denoiser turns the smoothed one."""


def smoothed_judge(count: int, copies: int, once: Callable[[str, Callable[[], Any]], Any]) -> dict[str, float]:
    """Shares of the pictures that the plain judge knows.

    Args:
        count: generated pictures.
        copies: noisy ones of each for a certificate.
        once: measures under a name, and keeps what it found.
    """
    samples = evenly_spaced(profile_of(canvas()).labelled(1)[0], count)
    rows = [
        Verdicts(*once(f"smoothed/{name_of(sample)}-{copies}", lambda s=sample: verdicts(s, copies)))
        for sample in samples
    ]
    known = [row for row in rows if row.plain]
    figures = {
        "clean": share(row.clean for row in known),
        "certified_at_0.2": share(row.clean and row.radius >= RADIUS for row in known),
        "pgd_plain": share(row.pgd_plain for row in known),
        "pgd_smoothed": share(row.pgd_smoothed for row in known if row.clean),
    }
    print(f"smoothed with {SIGMA}: {len(known)} of {len(rows)} generated pictures are known: {figures}")
    return figures


def name_of(sample: Sample) -> str:
    """Under which what was found of a sample is kept."""
    return f"{sample.concept}-{sample.seed}-{digest_of_words([sample.prompt])[:8]}"


def verdicts(sample: Sample, copies: int) -> Verdicts:
    """Of one picture as it is, and after descent on either judge."""
    judge, denoise, name = embedded_judge("emoji", "object"), denoiser(), str(sample.concept)
    settings = Sampling().settings(canvas())
    image = Model(canvas()).draw([sample.prompt], seeds=[SEEDS.audit + sample.seed], checked=False, **settings)
    if judge(image).labels[0] != name:
        return Verdicts(plain=False)
    certificate = SmoothedJudge(judge, denoise, SIGMA, guesses=GUESSES, count=copies).certify(image)[0]
    x, label = (pixels_of(image) + 1) / 2, torch.tensor([judge.classes.index(name)])

    def plain(pixels: Tensor) -> Tensor:
        return judge.logits(pixels * 2 - 1)

    moved = pgd(plain, x, label, radius=PGD_RADIUS)
    through = pgd(lambda p: plain(denoise(p)), x, label, radius=PGD_RADIUS, sigma=SIGMA, draws=16)
    turned = SmoothedJudge(judge, denoise, SIGMA, guesses=GUESSES)(images_of(through * 2 - 1)).labels[0] != name
    return Verdicts(
        plain=True,
        clean=certificate.label == name,
        radius=certificate.radius,
        pgd_plain=judge(images_of(moved * 2 - 1)).labels[0] != name,
        pgd_smoothed=turned,
    )


@cache
def denoiser() -> Callable[[Tensor], Tensor]:
    """The canvas as a denoiser of its own pictures."""
    labelled, _ = profile_of(canvas()).labelled(1)
    return unerased_denoiser(canvas(), SIGMA, [sample.prompt for sample in labelled])


def share(hits: Iterable[bool]) -> float:
    """Of those that are true."""
    rows = list(hits)
    return round(sum(rows) / max(1, len(rows)), 4)
