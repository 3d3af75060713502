"""Checkpoints in transformers' form from a user's folder: every weight from safetensors, nothing from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from efface.errors import EffaceError
from efface.io.images import FILTERS

LOCAL: dict[str, Any] = {"local_files_only": True}
"""Options of every `from_pretrained`: a path that is no folder must not be taken for the name of a download."""


def checkpoint_folder(path: str | Path, kind: str) -> Path:
    """The folder of a checkpoint; raises EffaceError where there is none."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise EffaceError(
            f"{folder} holds no config.json: expected the folder of {kind} in transformers' form; give its path."
        )
    return folder


def pretrained(kind: Any, folder: Path, device: torch.device) -> Any:
    """A model in float32, for evaluation alone.

    Raises:
        ValueError: weights are missing, which transformers would draw at random.
        Exception: whatever else transformers raises, see `unusable`.
    """
    model, found = kind.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **LOCAL
    )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"it lacks {missing[0]} and {len(missing) - 1} more weights")
    return model.eval().requires_grad_(False).to(device)


def unusable(folder: Path, kind: str, error: Exception) -> EffaceError:
    """What to tell of a checkpoint that transformers cannot load: it raises nearly any error for a damaged one."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:150]
    return EffaceError(
        f"{folder} holds no {kind} that can be loaded ({reason}): expected its weights in safetensors, its "
        "configuration and its image processor; fetch another copy."
    )


def resize_of(processor: Any) -> str:
    """Filter, side and crop of an image processor, for a judge's name: "bicubic-224-crop-224"."""
    names = {code: name for name, code in FILTERS.items()}
    parts = []
    if processor.do_resize:
        parts += [names.get(processor.resample, str(processor.resample)), _extent(processor.size)]
    if getattr(processor, "crop_pct", None):
        parts.append(f"of-{processor.crop_pct:g}")
    if getattr(processor, "do_center_crop", False):
        parts += ["crop", _extent(processor.crop_size)]
    return "-".join(parts) or "none"


def _extent(size: Any) -> str:
    """A side, or height x width."""
    sides = {name: value for name, value in dict(size).items() if value}
    values = list(dict.fromkeys(sides.values()))
    return str(values[0]) if len(values) == 1 else f"{sides.get('height')}x{sides.get('width')}"
