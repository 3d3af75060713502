"""What the leaks share: attacks that give the erased model a picture, or the beginning of one, instead of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.attacks.base import Attack, AttackConfig, in_nothing, never
from efface.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from efface.attacks.base import Candidate, Problem
    from efface.models.course import Course
    from efface.models.model import Model, Text

BUDGETS: dict[str, dict[str, Any]] = {"canvas": {}, "quick": {}}
"""There is nothing to search, and so nothing to spend less on."""


def leak(
    about: str | None, config: type[Any], search: Callable[..., Any], budgets: dict[str, dict[str, Any]] = BUDGETS
) -> Attack:
    """An attack with one picture of each sample, so that nothing is searched again, and which tries every sample."""
    return Attack(
        about=about or "",
        config=config,
        search=search,
        budgets=budgets,
        adaptive=never,
        finds=in_nothing,
        every=True,
    )


@dataclass(frozen=True)
class LeakConfig(AttackConfig):
    """Options of every leak that starts from a picture."""

    text: Literal["empty", "own"] = "empty"
    """What the model is told beside the picture: nothing, so that the concept can come from the picture alone, or the
    sample's own prompt."""


def prompts_of(problem: Problem, config: LeakConfig) -> list[str]:
    """The prompt of every sample."""
    return [sample.prompt if config.text == "own" else "" for sample in problem.samples]


def candidates_of(problem: Problem, prompts: Sequence[str]) -> list[Candidate]:
    """What the model reads beside the picture."""
    from efface.attacks.base import Candidate
    from efface.attacks.vocabulary import tokens_of

    return [Candidate(tuple(tokens_of(problem.model, prompt))) for prompt in prompts]


def denoised(problem: Problem, model: Model, members: Sequence[int], text: Text, course: Course) -> Tensor:
    """Clean latents of some samples (members channels height width), by a course and the settings of the run."""
    seeds = [problem.samples[k].seed for k in members]
    *_, (_, latents) = model.denoise(text, seeds=seeds, course=course, **problem.settings)
    return latents


def originals(problem: Problem) -> Tensor:
    """Pixels in −1 to 1 of the original model's pictures, or of the given ones (samples 3 height width)."""
    from efface.models.pictures import decompressed

    if problem.pictures is not None:
        return problem.pictures
    with problem.original.attached() as model:
        return decompressed(model, problem.latents).clamp(-1, 1)


def own_input(model: Model) -> Literal["text", "upscale", "inpaint", "img2img"]:
    """What a pipeline's own call takes beside a prompt."""
    import inspect

    taken = inspect.signature(type(model.pipeline).__call__).parameters
    if "mask_image" in taken:
        return "inpaint"
    if "image" in taken and "noise_level" in taken:
        return "upscale"
    # Pictures beside a prompt may also be references or conditions; whether efface draws there, `Model.denoise` says.
    return "img2img" if "image" in taken and "strength" in taken else "text"


def require_input(problem: Problem, expected: str, attack: str) -> bool:
    """Whether the pipeline's own call does what a leak does; False for one that draws from text, by efface's own loop.

    Raises:
        UsageError: it does something else.
    """
    found = own_input(problem.model)
    if found not in ("text", expected):
        raise UsageError(
            f"{attack} was given a pipeline for {found}: expected one that draws from text, or one for {expected}."
        )
    return found == expected


def called(
    problem: Problem, model: Model, members: Sequence[int], prompts: Sequence[str], **inputs: Any
) -> list[Image.Image]:
    """Pictures of some samples by the pipeline's own call, each from its seed."""
    import torch

    settings = problem.settings
    given = {"num_inference_steps": settings.get("steps"), "guidance_scale": settings.get("guidance")}
    options = {name: value for name, value in given.items() if value is not None}
    if settings.get("negative") is not None:
        options["negative_prompt"] = settings.get("negative")
    found: list[Image.Image] = []
    for row, k in enumerate(members):
        generator = torch.Generator().manual_seed(problem.samples[k].seed)
        own = {name: value[row] if isinstance(value, list) else value for name, value in inputs.items()}
        found += model.pipeline(prompt=prompts[k], generator=generator, **options, **own).images
    return found


def skipped_steps(problem: Problem, share: float) -> int:
    """How many of the run's steps are left out where `share` of them is taken, as image-to-image pipelines count.

    Raises:
        UsageError: that is all of them.
    """
    steps = problem.settings.get("steps", 50)
    taken = min(int(steps * share), steps)
    if taken < 1:
        raise UsageError(
            f"{share:g} of {steps} steps is less than one; expected more steps, or a larger share of them."
        )
    return steps - taken


def require_share(name: str, share: float) -> None:
    """Raise UsageError for a share that is none."""
    if not 0 < share < 1:
        raise UsageError(f"{name} is {share}; expected a share above 0 and below 1.")


def reduced(pixels: Tensor, by: int) -> Tensor:
    """A x: means of squares of `by` × `by` pixels (batch 3 height/by width/by).

    Raises:
        UsageError: the pictures do not hold whole squares.
    """
    import torch.nn.functional as F

    height, width = pixels.shape[-2:]
    if by < 2 or height % by or width % by or by in (height, width):
        raise UsageError(
            f"pictures of {width} x {height} pixels cannot be reduced {by} times: expected a divisor of both above 1."
        )
    return F.avg_pool2d(pixels, by)


def repeated(small: Tensor, by: int) -> Tensor:
    """A⁺ y: every pixel `by` × `by` times (batch 3 height·by width·by); A A⁺ = 1."""
    return small.repeat_interleave(by, -2).repeat_interleave(by, -1)


def enlarged(small: Tensor, by: int) -> Tensor:
    """Bicubic interpolation by `by`: what a picture shows without any model (batch 3 height·by width·by)."""
    import torch.nn.functional as F

    return F.interpolate(small, scale_factor=by, mode="bicubic", align_corners=False).clamp(-1, 1)


def pictures(pixels: Tensor) -> list[Image.Image]:
    """Pixels as pictures."""
    from efface.io.images import images_of

    return images_of(pixels)
