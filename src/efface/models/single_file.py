"""Single-file checkpoints of SD 1.x, 2.x and SDXL: whole ones, and the UNet alone beside a folder with the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from efface.errors import EffaceError, UsageError
from efface.io.memory import is_out_of_memory
from efface.models.files import config_folder, is_whole
from efface.models.text_only import unet_of_checkpoint

UNET = "model.diffusion_model."
TOKENS = r"(transformer\.text_model\.embeddings|transformer\.embeddings|model)\.token_embedding\.weight"
HELD = {
    "vae": r"(first_stage_model|vae)\.decoder\.conv_out\.weight",
    "text_encoder": rf"(cond_stage_model|conditioner\.embedders\.0)\.{TOKENS}",
    "text_encoder_2": rf"conditioner\.embedders\.[01]\.{TOKENS}",
}
"""Component -> a tensor that a checkpoint has where it holds the component."""


class Shape(NamedTuple):
    """Stands for a tensor where only its shape is asked for."""

    shape: tuple[int, ...]
    """Sizes of the tensor's axes."""


def open_checkpoint(path: Path, dtype: Any, config: str | Path | None, *, text_only: bool = False) -> Any:
    """A pipeline from one checkpoint; its class follows from the names of its tensors.

    Args:
        path: of the file.
        dtype: of the weights.
        config: a diffusers folder or hub id that says how components are built, and holds those that the file lacks.
        text_only: leave the UNet's weights in the file, and out what only drawing needs.

    Raises:
        ValueError: it is no safetensors file, or none of these families.
        EffaceError: it lacks components that nothing else holds.
    """
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

    shapes = _shapes(path)
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise ValueError(
            "its tensors are not those of a Stable Diffusion 1.x, 2.x or XL checkpoint; other families are read from a folder"
        )
    is_xl = f"{UNET}label_emb.0.0.weight" in shapes
    folder = config_folder(_family(shapes)) if config is None else _named(config)
    wanted = {name: re.compile(held) for name, held in HELD.items() if (folder / name / "config.json").exists()}
    lacking = [name for name, held in wanted.items() if not any(map(held.fullmatch, shapes))]
    others: dict[str, Any] = {}
    if lacking:
        if not is_whole(folder):
            raise EffaceError(
                f"{path} holds no {' and no '.join(lacking)}, and {folder} holds no weights: give the folder of a whole pipeline of "
                "its family (--config FOLDER), from which they are taken."
            )
        donor = DiffusionPipeline.from_pretrained(
            str(folder), dtype=dtype, unet=None, use_safetensors=True, local_files_only=True
        )
        others = {name: donor.components[name] for name in lacking}
    unet = unet_of_checkpoint(path, folder) if text_only else None
    if unet is not None:
        others |= {"unet": unet, "vae": None, "scheduler": None}
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    try:
        pipeline = kind.from_single_file(str(path), dtype=dtype, config=str(folder), local_files_only=True, **others)
        pipeline.register_to_config(_name_or_path=str(path))  # as diffusers itself does for folders and hub ids
        return pipeline
    except Exception as error:  # whatever a missing tensor leads to in diffusers' reader
        if is_out_of_memory(error):
            raise
        raise ValueError(f"its tensors do not fit {folder}: {type(error).__name__}: {error}") from error


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
