"""Where a model's files lie: in a folder, in the Hub's cache, or on the Hub, which is asked last."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.io.hub import cached_snapshot

WEIGHTS = re.compile(
    r"(?:(?P<part>[^/]+)/)?(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?(?:\.(?P<late>\w+))?\.safetensors"
)
"""A component's weights, whole or sharded, with or without a variant; in old files the variant stands behind the shard."""
CONFIGS = ("*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.model")
"""Files of a pipeline that are no weights."""
SECONDS = 5
"""How long the Hub is waited for before it counts as out of reach."""


def variant_in(files: Iterable[str]) -> str | None:
    """The variant in which weights are, where a component has no plain ones; None where all have.

    Args:
        files: names of safetensors files in a pipeline's folder.
    """
    parts: dict[str, set[str | None]] = {}
    for match in filter(None, map(WEIGHTS.fullmatch, files)):
        parts.setdefault(match["part"] or "", set()).add(match["variant"] or match["late"])
    lacking = [variants for variants in parts.values() if None not in variants]
    common = sorted(str(v) for v in set.intersection(*lacking)) if lacking else []
    return "fp16" if "fp16" in common else common[0] if common else None


def stored_dtype(folder: Path) -> Any:
    """torch.dtype of a pipeline's denoiser in its folder; None where it is not there."""
    import torch
    from safetensors import SafetensorError, safe_open

    for part in ("unet", "transformer"):
        for path in sorted((folder / part).glob("*.safetensors"))[:1]:
            try:
                with safe_open(path, framework="pt") as file:
                    kept = file.get_slice(next(iter(file.keys()))).get_dtype()
            except (SafetensorError, StopIteration):
                return None
            return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}.get(kept)
    return None


def local_folder(name: str, variant: str | None) -> Path:
    """The folder of a repository's files in the Hub's cache; what is not there is fetched.

    Raises:
        OSError: the Hub cannot be reached or refuses.
        ValueError: the name is none of a repository.
    """
    from diffusers import DiffusionPipeline

    cached = cached_folder(name)
    if cached is not None and is_whole(cached, variant):
        return cached
    files = [sibling.rfilename for sibling in model_info(name).siblings or ()]
    return Path(DiffusionPipeline.download(name, variant=variant or variant_in(files), use_safetensors=True))


def cached_folder(name: str) -> Path | None:
    """The folder of a repository's pipeline in the Hub's cache; None where it is not there."""
    found = cached_snapshot(name)
    return found if found is not None and (found / "model_index.json").exists() else None


def is_whole(folder: Path, variant: str | None = None) -> bool:
    """Whether every network that a pipeline's folder names has weights there, one of them of the variant that was named."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError):
        return False
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    networks = [folder / name for name in parts if (folder / name / "config.json").exists()]
    if variant is not None and not any(folder.glob(f"*/*.{variant}*.safetensors")):
        return False
    return all((folder / name).is_dir() for name in parts) and all(any(n.glob("*.safetensors")) for n in networks)


def config_folder(name: str) -> Path:
    """The folder of a repository's configuration and tokenizer in the Hub's cache; fetched where it is not there.

    Raises:
        EffaceError: it is not there, and the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    folder = cached_folder(name)
    if folder is not None and any(folder.glob("tokenizer*/*.json")):
        return folder
    try:
        model_info(name)
        return Path(snapshot_download(name, allow_patterns=list(CONFIGS)))
    except (OSError, ValueError) as error:
        raise EffaceError(
            f"how the checkpoint's components are built stands in {name}, which is not on this machine and was not reached "
            f"({type(error).__name__}): give a diffusers folder of its family (--config FOLDER), without weights if need be."
        ) from error


def model_info(name: str) -> Any:
    """What the Hub says of a repository; raises OSError soon where it cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(name, timeout=SECONDS)
    except (OSError, ValueError):
        raise
    except Exception as error:  # of the client's own transport, which changed its base from one version to the next
        raise OSError(str(error) or type(error).__name__) from error
