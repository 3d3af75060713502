"""A pipeline from one .safetensors checkpoint: Stable Diffusion 1, 2 or XL whole, or its UNet alone and the rest from elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.models.checkpoint_names import AUTOENCODER, TEXT, in_own_layout, require_known_names


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
    own = in_own_layout(names)
    if not own:
        require_known_names(path, names)
    try:
        if any(name.startswith(TEXT) for name in names):
            pipeline = _whole(path, names, dtype, config)
        else:
            base = _rest(path, dtype, config)
            pipeline = _with_own_unet(path, base) if own else _with_unet(path, names, base, dtype, config)
        pipeline.register_to_config(_name_or_path=str(path))  # as diffusers itself does for folders and hub ids
        return pipeline
    except EffaceError:
        raise
    except Exception as error:  # diffusers' reader of strangers' files raises anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


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


def _with_own_unet(path: Path, base: Any) -> Any:
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
