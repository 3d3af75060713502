"""efface.load: a diffusers pipeline from the embedded canvas, a hub id, a folder or a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.errors import EffaceError, UsageError
from efface.io import embedded


def load(
    name: str | Path,
    *,
    dtype: Any = None,
    device: str | None = None,
    config: str | Path | None = None,
    text_only: bool = False,
) -> Any:
    """A normal DiffusionPipeline.

    Args:
        name: of an embedded model ("emoji" is the canvas), a hub id, a diffusers folder, or a single .safetensors checkpoint.
        dtype: of the weights; by default float32 on the CPU, elsewhere what the model's own metadata says or float16.
        device: "cpu", "cuda", "mps"; the best one present by default.
        config: for a checkpoint, a diffusers folder or hub id that says how its components are built; without it diffusers
            asks the hub for that of the checkpoint's family.
        text_only: only what closed forms read, where the model is a UNet with CLIP text encoders: these in float32, nothing of
            what only drawing needs, and the UNet on the meta device, its weights read from the files when they are asked
            for. Other models are loaded as a whole.

    Raises:
        EffaceError: nothing is found there, it is no pipeline, or it would have to be unpickled.
    """
    from efface.io.device import best_device
    from efface.models.text_only import from_folder, move_text_encoders

    device = str(best_device(device))
    path = embedded.folder(str(name)) if str(name) in embedded.names() else Path(name)
    dtype = dtype or _usual_dtype(path, device)
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise EffaceError(
            f"{path} is a pickled checkpoint, which can run code when opened: convert it to .safetensors first."
        )
    if path.is_dir() and not (path / "model_index.json").exists():
        raise EffaceError(f"{path} is a folder without model_index.json: expected a diffusers pipeline's folder.")
    if not str(name).strip():
        raise UsageError("the model's name is empty: give 'emoji', a hub id, a folder or a .safetensors file.")
    if text_only and path.is_dir():
        text = from_folder(path, device)
        if text is not None:
            return text
    from diffusers import DiffusionPipeline

    try:
        if path.is_file():
            pipeline = _single_file(path, dtype, config, text_only)
        else:
            pipeline = DiffusionPipeline.from_pretrained(str(path), dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EffaceError(
            f"no pipeline could be loaded from {str(name)!r} ({reason}): expected 'emoji', a hub id, a folder or a file."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return move_text_encoders(pipeline, device) if text_only else pipeline.to(device)


def _usual_dtype(path: Path, device: str) -> Any:
    """float32 on the CPU; elsewhere what the model's own metadata says, or float16."""
    import torch

    from efface.models.metadata import metadata_in

    if device == "cpu":
        return torch.float32
    metadata = metadata_in(path)
    return torch.float16 if metadata is None else getattr(torch, metadata.dtype)


def _single_file(path: Path, dtype: Any, config: str | Path | None, text_only: bool) -> Any:
    """A pipeline from one checkpoint; its class follows from the names of its tensors."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors import SafetensorError, safe_open

    from efface.models.text_only import unet_of_checkpoint

    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from error
    if not any(name.startswith("model.diffusion_model.") for name in names):
        raise ValueError("its tensors are not those of a Stable Diffusion checkpoint")
    is_xl = any(name.startswith("conditioner.embedders.1") for name in names)
    kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    options: dict[str, Any] = {}
    if config is not None:
        options = {"config": str(config), "local_files_only": Path(config).is_dir()}
        unet = unet_of_checkpoint(path, config) if text_only else None
        options |= {} if unet is None else {"unet": unet, "vae": None, "scheduler": None}
    pipeline = kind.from_single_file(str(path), dtype=dtype, **options)
    pipeline.register_to_config(_name_or_path=str(path))  # as diffusers itself does for folders and hub ids
    return pipeline
