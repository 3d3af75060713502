"""Whether efface's own drawing is a pipeline's own call: what is not known to be equal is refused in one sentence.

Known is a class of pipeline, as diffusers has it. A class derived from it is the same as long as it replaces nothing that
the call uses, and a newer diffusers as long as its call has no new argument that does something by default.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Sequence
from functools import cache
from types import CodeType
from typing import Any

from torch import Tensor

from efface.errors import EffaceError, UsageError

WAY_OUT = (
    "attach the erasure and call the pipeline itself, and where efface has to draw, give it the text-to-image pipeline of the "
    "same networks (diffusers' AutoPipelineForText2Image.from_pipe)"
)
KNOWN_MODULES = ("diffusers.", "efface.families.")
"""Where the classes stand whose calls are known."""
GIVEN = frozenset(
    {
        # What efface gives, or does as the default says.
        "num_inference_steps", "guidance_scale", "true_cfg_scale", "height", "width", "num_images_per_prompt", "output_type",
        "return_dict", "callback_on_step_end_tensor_inputs", "callback_steps", "max_sequence_length", "eta",
        "clean_caption", "complex_human_instruction", "text_encoder_out_layers", "original_size", "target_size",
        "crops_coords_top_left", "negative_crops_coords_top_left", "cfg_normalization", "aesthetic_score", "negative_aesthetic_score",
        # A picture of the model's own size is of its own bin.
        "use_resolution_binning",
        # Without the argument that switches them on they do nothing, or what they say is all of it.
        "skip_layer_guidance_scale", "skip_layer_guidance_stop", "skip_layer_guidance_start", "cfg_trunc_ratio",
        "cfg_truncation",
        # Of the refiner, which efface starts from noise.
        "strength",
    }
)  # fmt: skip
"""Arguments of pipelines' calls whose defaults do something, and that efface's drawing follows."""


def require_own_call(pipeline: Any, known: Sequence[str]) -> None:
    """Raise EffaceError unless a pipeline's call is that of one of the classes of diffusers called `known`."""
    kind = next(
        (k for k in type(pipeline).__mro__ if k.__name__ in known and k.__module__.startswith(KNOWN_MODULES)), None
    )
    name = type(pipeline).__name__
    if kind is None:
        raise EffaceError(
            f"efface draws as {' and '.join(known)} do, and {name} draws otherwise or from more than a prompt: {WAY_OUT}."
        )
    for used in _used_by_call(kind):
        replaced = inspect.getattr_static(type(pipeline), used) is not inspect.getattr_static(kind, used)
        if replaced or used in vars(pipeline):
            raise EffaceError(
                f"this {name} has a {used} of its own, so efface's drawing is not known to be its call: {WAY_OUT}."
            )
    for argument in inspect.signature(kind.__call__).parameters.values():
        if argument.name not in GIVEN and not _is_neutral(argument):
            raise EffaceError(
                f"the call of {name} has an argument {argument.name} = {str(argument.default)[:60]!r}, which efface's drawing "
                f"does not know: {WAY_OUT}, or update efface."
            )


@cache
def _used_by_call(kind: type) -> tuple[str, ...]:
    """Functions and properties of a class that its call uses, the call itself among them."""
    found = ["__call__"]
    for name in found:
        function = inspect.getattr_static(kind, name)
        function = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
        for used in _names_in(inspect.unwrap(function).__code__) if function is not None else ():
            member = inspect.getattr_static(kind, used, None)
            own = isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
            if own and used not in found and _is_python(member):
                found.append(used)
    return tuple(found)


def _names_in(code: CodeType) -> list[str]:
    """Names that a function reads, those of functions inside it included."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names_in(const)]
    return [*code.co_names, *inner]


def _is_python(member: Any) -> bool:
    """Whether a member has code to look into."""
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return inspect.isfunction(inspect.unwrap(function)) if function is not None else False


def _is_neutral(argument: inspect.Parameter) -> bool:
    """Whether an argument does nothing where it is left out."""
    named = argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
    return named or argument.name == "self" or not argument.default


def require_settings(settings: Collection[str], known: Collection[str]) -> None:
    """Raise UsageError for an option of a pipeline's call that efface's drawing has not."""
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UsageError(
            f"efface's own drawing has no option {unknown[0]!r}, only {', '.join(known)}: attach the erasure and call the "
            "pipeline itself."
        )


def screened(pipeline: Any, pixels: Tensor, device: Any, *, checked: bool) -> Tensor:
    """Pixels (batch 3 height width), −1 to 1, as the pipeline's safety checker leaves them in its own call, black where it
    finds something; without a checker, or unchecked, as they are. Either is said in a warning."""
    if getattr(pipeline, "safety_checker", None) is None:
        return pixels
    if not checked:
        warnings.warn("the pipeline's safety checker is left out of what is measured.", stacklevel=3)
        return pixels
    pixels, flags = pipeline.run_safety_checker(pixels.clone(), device, pixels.dtype)
    flagged = [index for index, found in enumerate(flags or ()) if found]
    pixels[flagged] = -1.0  # it leaves zeros there, which the call takes for black
    if flagged:
        warnings.warn(
            f"the pipeline's safety checker blackened {len(flagged)} of {len(pixels)} pictures: load it with "
            "safety_checker=None to see what the model draws.",
            stacklevel=3,
        )
    return pixels
