"""Judges by a short name for a pipeline in hand: those that denoise by its model get it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from efface.concepts.sample import SEEDS, evenly_spaced
from efface.erasures.switch import ModelVariant
from efface.judges import open_judge
from efface.models.denoiser import picture_denoiser
from efface.models.model import Model
from efface.models.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from efface.judges import Judge

FITTED_ON = 4
"""Pictures of the model on which its denoiser is fitted."""


def judge_named(spec: str, pipeline: Any, prompts: Sequence[str] = ("",)) -> Judge:
    """The judge of a short name (`efface.judges.JUDGES`); `smooth:SIGMA:JUDGE` denoises by the pipeline's model.

    Args:
        spec: the name.
        pipeline: whose unerased model denoises.
        prompts: of some pictures on which the denoiser is fitted.

    Raises:
        UsageError, EffaceError: as `efface.judges.open_judge`; the pipeline has no autoencoder.
    """
    return open_judge(spec, denoiser=lambda sigma: unerased_denoiser(pipeline, sigma, prompts))


def unerased_denoiser(pipeline: Any, sigma: float, prompts: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """The pipeline's model as a denoiser, with none of the erasures on that are attached while it is attacked."""
    variant = ModelVariant(Model(pipeline))
    some = evenly_spaced(list(prompts) or [""], FITTED_ON, repeat=True)
    with variant.attached() as model:
        seeds = range(SEEDS.quality, SEEDS.quality + FITTED_ON)
        drawn = model.draw(some, seeds=seeds, checked=False, **Sampling().settings(pipeline))
        denoise = picture_denoiser(model, sigma, drawn)

    def without_erasures(noisy: Tensor) -> Tensor:
        with variant.attached():
            return denoise(noisy)

    return without_erasures
