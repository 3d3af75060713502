"""Calls of the denoiser beside its own: the same latents at the same noise level, with another text.

What of a call belongs to the text is found by name, and what another text puts there by asking the family for a prediction that
ends before the network runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures.selection import of_rows, without_policy
from efface.families.text import Text
from efface.models.caller import aside, at_work, in_halves
from efface.models.model import Model

TEXT = frozenset(
    {
        "encoder_hidden_states", "cap_feats", "encoder_attention_mask", "encoder_hidden_states_mask", "text_embedding_mask",
        "encoder_hidden_states_t5", "text_embedding_mask_t5", "txt_ids", "txt_seq_lens", "pooled_projections",
    }
)  # fmt: skip
"""Arguments of denoisers that hold text, or run along its positions."""
CONDITIONS = "added_cond_kwargs"
"""The argument in which UNets take more than text."""
POOLED = "text_embeds"
"""Its entry that holds pooled text."""
SHARED = frozenset({"txt_ids", "img_ids", "image_rotary_emb"})
"""Arguments that are the same for every row."""
LISTS = frozenset({"x", "cap_feats", "img_shapes", "txt_seq_lens", "hidden_states"})
"""Arguments that may be lists with one entry a row."""


class _ReachedError(Exception):
    """The denoiser was called."""


@torch.no_grad()
def text_arguments(model: Model, text: Text) -> dict[str, Any]:
    """Name -> what the denoiser is given for one prompt, of all that belongs to its text."""
    denoiser = model.networks()[0].module
    names, found = argument_names(denoiser), {}

    def look(module: Any, args: Any, kwargs: Any) -> None:
        found.update(zip(names, args, strict=False))
        found.update(kwargs)
        raise _ReachedError

    latents = text.states.new_zeros(1, *model.family.latent_shape(None))
    handle = denoiser.register_forward_pre_hook(look, with_kwargs=True, prepend=True)
    try:
        with aside(), without_policy(), at_work(model.pipeline, told=False), in_halves(False):
            model.predict(latents, torch.tensor(1), text)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    arguments = {name: value for name, value in found.items() if name in TEXT}
    pooled = (found.get(CONDITIONS) or {}).get(POOLED)
    return arguments if pooled is None else arguments | {POOLED: pooled}


def encoded(model: Model, prompt: str | None, *, negative: bool = False) -> Text:
    """One prompt as the pipeline encodes it, or as it encodes a negative one, or none (None), with guards and edits of text off, so
    that the order in which erasures come and go does not matter."""
    with aside(), without_policy(), at_work(model.pipeline, told=False):
        return model.encode_negative(prompt) if negative or prompt is None else model.encode([prompt])


def argument_names(module: nn.Module) -> list[str]:
    """Names of the arguments of a network's call, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def count_rows(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many pictures a call holds."""
    return len(latents_of(module, args, kwargs))


def latents_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The noisy latents of a call: its first argument."""
    return args[0] if args else kwargs[argument_names(module)[0]]


def call_aside(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: slice, text: Mapping[str, Any]
) -> Any:
    """What the network returns for some rows of a call with another text in all of them (`text_arguments`)."""
    call = dict(zip(argument_names(module), args, strict=False)) | dict(kwargs)
    total = count_rows(module, args, kwargs)
    number = len(range(*rows.indices(total)))
    new = {name: _picked(name, value, rows, total) for name, value in call.items() if name not in TEXT}
    for name, value in text.items():
        if name != POOLED:
            new[name] = _expanded(name, value, number, call.get(name))
    if POOLED in text and new.get(CONDITIONS) is not None:
        old = new[CONDITIONS]
        new[CONDITIONS] = old | {POOLED: _expanded(POOLED, text[POOLED], number, old.get(POOLED))}
    with aside(), of_rows(rows, total):
        return module(**new)


def _picked(name: str, value: Any, rows: slice, total: int) -> Any:
    """Some rows of an argument, wherever in it they are."""
    if name in SHARED:
        return value
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == total else value
    if isinstance(value, list) and name in LISTS and len(value) == total:
        return value[rows]
    if isinstance(value, dict):
        return {key: _picked(key, part, rows, total) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_picked(name, part, rows, total) for part in value)
    return value


def _expanded(name: str, value: Any, number: int, like: Any) -> Any:
    """One row of an argument as so many, on the device and in the precision of what it replaces."""
    like = like[0] if isinstance(like, list | tuple) and like else like
    if isinstance(value, list):
        return [_as(part, like) for part in value] * number if name in LISTS else value
    if not isinstance(value, Tensor):
        return value
    value = _as(value, like)
    if name in SHARED or len(value) != 1:
        return value
    return value.expand(number, *value.shape[1:]).contiguous()  # HunyuanDiT takes views of it


def _as(value: Any, like: Any) -> Any:
    """A tensor on another's device, and in its precision where both are floating-point; anything else as it is."""
    if not isinstance(value, Tensor) or not isinstance(like, Tensor):
        return value
    return value.to(like) if value.is_floating_point() and like.is_floating_point() else value.to(like.device)
