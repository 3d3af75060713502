"""efface.load: a diffusers pipeline from the embedded canvas, a hub id, a folder or a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.errors import EffaceError, UsageError
from efface.io import embedded
from efface.models.single_file import load_single_file


def load(name: str | Path, *, dtype: Any = None, device: str | None = None, config: str | Path | None = None) -> Any:
    """A normal DiffusionPipeline.

    Args:
        name: of an embedded model ("emoji" is the canvas), a hub id, a diffusers folder, or a single .safetensors checkpoint.
        dtype: of the weights; by default float32 on the CPU, elsewhere what the model's own metadata says or float16.
        device: "cpu", "cuda", "mps"; the best one present by default.
        config: for a checkpoint, a diffusers folder or hub id that says how its components are built, and brings those that
            a checkpoint of the UNet alone lacks; without it diffusers asks the hub for that of the checkpoint's family.

    Raises:
        EffaceError: nothing is found there, it is no pipeline, it holds tensors that nobody would read, or it would have to
            be unpickled.
    """
    from diffusers import DiffusionPipeline

    from efface.io.device import best_device

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
    try:
        if path.is_file():
            pipeline = load_single_file(path, dtype, config)
        else:
            pipeline = DiffusionPipeline.from_pretrained(str(path), dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EffaceError(
            f"no pipeline could be loaded from {str(name)!r} ({reason}): expected 'emoji', a hub id, a folder or a file."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _usual_dtype(path: Path, device: str) -> Any:
    """float32 on the CPU; elsewhere what the model's own metadata says, or float16."""
    import torch

    from efface.models.metadata import metadata_in

    if device == "cpu":
        return torch.float32
    metadata = metadata_in(path)
    return torch.float16 if metadata is None else getattr(torch, metadata.dtype)
