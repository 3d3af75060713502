"""Single-file checkpoints of SD 1.x, 2.x and SDXL: whole ones, and the UNet alone beside a folder with the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from efface.errors import EffaceError, UsageError
from efface.io.memory import is_out_of_memory
from efface.models.checkpoint_names import UNET, in_own_layout, require_known_names
from efface.models.files import config_folder, is_whole, local_folder, variant_in
from efface.models.text_only import unet_of_checkpoint

HELD = {
    "vae": r"first_stage_model\.",
    "text_encoder": r"(cond_stage_model|conditioner\.embedders\.0)\.",
    "text_encoder_2": r"conditioner\.embedders\.(1|0\.model)\.",  # the refiner's only one is an XL's second
}
"""Component -> how the names of its tensors begin in a checkpoint that holds it."""


class Shape(NamedTuple):
    """Stands for a tensor where only its shape is asked for."""

    shape: tuple[int, ...]
    """Sizes of the tensor's axes."""


def open_checkpoint(path: Path, dtype: Any, config: str | Path | None, *, text_only: bool = False) -> Any:
    """A pipeline from one checkpoint; its class follows from the names of its tensors, and is that of the config's pipeline where
    the file holds a UNet alone.

    Args:
        path: of the file.
        dtype: of the weights.
        config: a diffusers folder or hub id that says how components are built, and holds those that the file lacks.
        text_only: leave the UNet's weights in the file, and out what only drawing needs.

    Raises:
        ValueError: it is no safetensors file, or none of these families.
        EffaceError: a tensor is unknown, or it lacks components that nothing else holds.
    """
    shapes = _shapes(path)
    own = in_own_layout(shapes)
    if not own:
        require_known_names(path, shapes)
    try:
        pipeline = _with_own_unet(path, dtype, config) if own else _original(path, shapes, dtype, config, text_only)
    except EffaceError:
        raise
    except Exception as error:  # whatever a missing tensor leads to in diffusers' reader
        if is_out_of_memory(error):
            raise
        raise ValueError(f"its tensors do not fit {config or 'its family'}: {type(error).__name__}: {error}") from error
    pipeline.register_to_config(_name_or_path=str(path))  # as diffusers itself does for folders and hub ids
    return pipeline


def _original(path: Path, shapes: Mapping[str, Shape], dtype: Any, config: str | Path | None, text_only: bool) -> Any:
    """The pipeline of a checkpoint in the original layout."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    folder = config_folder(_family(shapes)) if config is None else _named(config)
    kind: Any = StableDiffusionPipeline
    if f"{UNET}label_emb.0.0.weight" in shapes:
        refines = not (folder / "text_encoder" / "config.json").exists()
        kind = StableDiffusionXLImg2ImgPipeline if refines else StableDiffusionXLPipeline
    names = [name for name in shapes if not name.endswith(".position_ids")]  # which alone are no component
    wanted = {name: re.compile(held) for name, held in HELD.items() if (folder / name / "config.json").exists()}
    lacking = [name for name, held in wanted.items() if not any(map(held.match, names))]
    others: dict[str, Any] = {}
    if lacking:
        folder = _whole(folder, config)
        if not is_whole(folder):
            raise EffaceError(
                f"{path} holds no {' and no '.join(lacking)}, and {folder} holds no weights: give the folder of a whole pipeline of "
                "its family (--config FOLDER), from which they are taken."
            )
        held = {"unet", *wanted} - {*lacking}
        donor = _donor(folder, dtype, **dict.fromkeys(held))
        others = {name: part for name, part in donor.components.items() if name not in held}
        if not any(name.startswith("text_encoder") for name in held) and hasattr(donor, "from_single_file"):
            kind = type(donor)  # a UNet alone draws as the model that it belongs to
    unet = unet_of_checkpoint(path, folder) if text_only else None
    if unet is not None:
        others |= {"unet": unet, "vae": None, "scheduler": None}
    pipeline = kind.from_single_file(str(path), dtype=dtype, config=str(folder), local_files_only=True, **others)
    _require_weights(path, pipeline, others)
    return pipeline


def _with_own_unet(path: Path, dtype: Any, config: str | Path | None) -> Any:
    """A pipeline with the weights of a file in diffusers' layout in its UNet; those that it lacks stay, as in erasers' files."""
    from safetensors.torch import load_file

    if config is None:
        raise EffaceError(
            f"{path} holds a UNet without text encoders: name the model that it belongs to, a diffusers folder or hub id, with "
            "config (--config), and the rest is taken from there."
        )
    folder = _whole(_named(config), config)
    if not is_whole(folder):
        raise EffaceError(
            f"{path} holds a UNet without text encoders, and {folder} lacks weights: give the folder of a whole pipeline "
            "(--config FOLDER), from which the rest is taken."
        )
    pipeline = _donor(folder, dtype)
    if getattr(pipeline, "unet", None) is None:
        raise EffaceError(f"{config} has no UNet, and {path} holds one: name the model that the checkpoint belongs to.")
    found = {name.removeprefix("unet."): tensor for name, tensor in load_file(path).items()}
    held = pipeline.unet.state_dict()
    wrong = sorted(name for name, tensor in found.items() if name not in held or held[name].shape != tensor.shape)
    if wrong:
        raise EffaceError(
            f"{path} holds {wrong[0]} of shape {tuple(found[wrong[0]].shape)}, which the UNet of {type(pipeline).__name__} has "
            "not: name the model that it belongs to with config (--config)."
        )
    pipeline.unet.load_state_dict(found, strict=False)
    return pipeline


def _donor(folder: Path, dtype: Any, **without: None) -> Any:
    """The pipeline in a folder, in the variant that it has, without the components that are named."""
    from diffusers import DiffusionPipeline

    variant = variant_in([file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")])
    return DiffusionPipeline.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, variant=variant, local_files_only=True, **without
    )


def _require_weights(path: Path, pipeline: Any, others: Mapping[str, Any]) -> None:
    """Raise EffaceError where a component that was read from a file is not whole there."""
    for name, part in pipeline.components.items():
        if name not in others and isinstance(part, nn.Module):
            lacking = [parameter for parameter, tensor in part.named_parameters() if tensor.is_meta]
            if lacking:
                raise EffaceError(f"{path} lacks {name}.{lacking[0]}: fetch another copy, or one with that part whole.")


def _shapes(path: Path) -> dict[str, Shape]:
    """Name -> shape of every tensor; raises ValueError where it is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: Shape(tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from error


def _family(shapes: Mapping[str, Shape]) -> str:
    """Name of the repository that has the configuration of a checkpoint's family, as diffusers reads it from the shapes."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    return fetch_diffusers_config(dict(shapes))["pretrained_model_name_or_path"]


def _named(config: str | Path) -> Path:
    """The folder of a config that was named."""
    folder = Path(config)
    if folder.is_dir():
        if not (folder / "model_index.json").exists():
            raise UsageError(
                f"config is {folder}, which has no model_index.json; expected a diffusers pipeline's folder."
            )
        return folder
    if folder.exists() or str(config).count("/") != 1:
        raise UsageError(f"config is {str(config)!r}; expected a diffusers pipeline's folder, or a hub id OWNER/NAME.")
    return config_folder(str(config))


def _whole(folder: Path, config: str | Path | None) -> Path:
    """The folder of a config with weights, which are fetched where a hub id was named."""
    named = config is not None and not Path(config).is_dir()
    return local_folder(str(config), None) if named and not is_whole(folder) else folder
