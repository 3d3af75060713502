"""A pipeline from one .safetensors checkpoint: Stable Diffusion 1, 2 or XL whole, or its UNet alone and the rest from elsewhere.

A tensor that diffusers' reader would pass over is an error that names it: it may say how the others are to be read (scales
of fp8 weights, the marker `v_pred`), or belong to a network without which the model draws something else.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from efface.errors import EffaceError

UNET = "model.diffusion_model."
"""Prefix of the UNet's tensors."""
ROOTS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")
"""Parts of a UNet in the original layout."""
AUTOENCODER = "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.")
"""Prefixes of the text encoders' tensors in SD 1 and 2, and in XL."""
OWN_ROOTS = (
    "down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding",
)  # fmt: skip
"""Parts of a UNet in diffusers' layout."""
AVERAGED = "model_ema."
"""Prefix of a second copy of the UNet, with which no tool draws."""
SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar", "global_step",
    "denoiser.sigmas", "edm_mean", "edm_std",
)  # fmt: skip
"""Numbers of the training schedule, which diffusers' schedulers have of their own or read from here."""


def load_single_file(path: Path, dtype: Any, config: str | Path | None) -> Any:
    """The pipeline in a checkpoint; its class follows from the names of its tensors.

    Args:
        path: of the .safetensors file.
        dtype: of the weights.
        config: a diffusers folder or hub id that says how components are built, and brings those that the file lacks.

    Raises:
        EffaceError: a tensor is unknown, or a part is missing.
        ValueError: it is no safetensors file, or diffusers cannot read it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from error
    own = {name for name in names if name.removeprefix("unet.").partition(".")[0] in OWN_ROOTS}
    if not own:
        _require_known(path, names)
    try:
        if any(name.startswith(TEXT) for name in names):
            return _whole(path, names, dtype, config)
        base = _rest(path, dtype, config)
        return _with_own_unet(path, names, base) if own else _with_unet(path, names, base, dtype, config)
    except EffaceError:
        raise
    except Exception as error:  # diffusers' reader of strangers' files raises anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _require_known(path: Path, names: Collection[str]) -> None:
    """Raise EffaceError for the first tensor that no part of a Stable Diffusion checkpoint has."""
    if not any(name.startswith(UNET) for name in names):
        raise ValueError("its tensors are not those of a Stable Diffusion checkpoint")
    for name in sorted(names):
        root, _, _ = name.removeprefix(UNET).partition(".")
        if name.startswith(UNET) and root not in ROOTS and "." in name.removeprefix(UNET):
            raise EffaceError(
                f"{path} holds {name}, which no UNet of Stable Diffusion has: efface reads single files of Stable Diffusion 1, 2 "
                "and XL, so give the diffusers folder or hub id of a model of another family."
            )
        known = name.startswith((UNET, AUTOENCODER, AVERAGED, *TEXT)) or name in SCHEDULE
        last = name.rpartition(".")[2]
        scaled = "scale" in last and last != "logit_scale"
        if (
            not known
            or (scaled and not name.startswith(AVERAGED))
            or (name.startswith(UNET) and last not in ("weight", "bias"))
        ):
            raise EffaceError(
                f"{path} holds {name}, which efface does not know and which may change how the model draws (a scale, a marker, "
                "another network): give the model's diffusers folder, or a checkpoint without."
            )


def _whole(path: Path, names: Collection[str], dtype: Any, config: str | Path | None) -> Any:
    """A checkpoint with its text encoders."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    kind: Any = StableDiffusionPipeline
    if any(name.startswith("conditioner.") for name in names):
        refines = not any(name.startswith("conditioner.embedders.1.") for name in names)
        kind = StableDiffusionXLImg2ImgPipeline if refines else StableDiffusionXLPipeline
    options = {} if config is None else {"config": str(config), "local_files_only": Path(config).is_dir()}
    return kind.from_single_file(str(path), dtype=dtype, **options)


def _rest(path: Path, dtype: Any, config: str | Path | None) -> Any:
    """The pipeline that brings what a checkpoint of the UNet alone lacks."""
    from diffusers import DiffusionPipeline

    if config is None:
        raise EffaceError(
            f"{path} holds a UNet without text encoders: name the model that it belongs to, a diffusers folder or hub id, with "
            "config (--config), and the rest is taken from there."
        )
    pipeline = DiffusionPipeline.from_pretrained(str(config), dtype=dtype, use_safetensors=True)
    if getattr(pipeline, "unet", None) is None:
        raise EffaceError(f"{config} has no UNet, and {path} holds one: name the model that the checkpoint belongs to.")
    return pipeline


def _with_unet(path: Path, names: Collection[str], base: Any, dtype: Any, config: str | Path | None) -> Any:
    """A pipeline with the UNet of a checkpoint in the original layout, and its autoencoder where it has one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    assert config is not None  # `_rest` asked for it
    parts: dict[str, Any] = {"unet": UNet2DConditionModel}
    if any(name.startswith(AUTOENCODER) for name in names):
        parts["vae"] = AutoencoderKL
    options = {"config": str(config), "local_files_only": Path(config).is_dir(), "torch_dtype": dtype}
    for name, kind in parts.items():
        part = kind.from_single_file(str(path), subfolder=name, **options)
        lacking = [parameter for parameter, tensor in part.named_parameters() if tensor.is_meta]
        if lacking:
            raise EffaceError(f"{path} lacks {name}.{lacking[0]}: fetch another copy, or one with that part whole.")
        setattr(base, name, part)
    return base


def _with_own_unet(path: Path, names: Collection[str], base: Any) -> Any:
    """A pipeline with the weights of a file in diffusers' layout in its UNet; those that it lacks stay, as in erasers' files."""
    from safetensors.torch import load_file

    found = {name.removeprefix("unet."): tensor for name, tensor in load_file(path).items()}
    held = base.unet.state_dict()
    wrong = sorted(name for name, tensor in found.items() if name not in held or held[name].shape != tensor.shape)
    if wrong:
        raise EffaceError(
            f"{path} holds {wrong[0]} of shape {tuple(found[wrong[0]].shape)}, which the UNet of {type(base).__name__} has not: "
            "name the model that it belongs to with config (--config)."
        )
    base.unet.load_state_dict(found, strict=False)
    return base
