"""efface.load: a diffusers pipeline from the embedded canvas, a hub id, a folder or a single file; or a LLaVA from a folder."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from typing import Any, Literal

from efface.errors import EffaceError, UsageError
from efface.io import embedded

Offload = Literal["none", "model", "sequential", "group"]
DTYPES = ("float32", "float16", "bfloat16")
STORED = "stored"
"""In place of a precision: that of the weights on disk, where the device computes in it."""
OWN_PIPELINES = {"ACDiTPipeline": "efface.families.acdit_pipeline:ACDiTPipeline"}
"""Name of a class in model_index.json -> where it stands, of pipelines that diffusers has not."""
log = logging.getLogger("efface")


def load(
    name: str | Path,
    *,
    dtype: Any = None,
    device: str | None = None,
    config: str | Path | None = None,
    variant: str | None = None,
    offload: Offload = "none",
    text_only: bool = False,
) -> Any:
    """A normal DiffusionPipeline, or a `VisionLanguageModel` of a LLaVA's folder; the Hub is asked only for what is not here.

    Args:
        name: of an embedded model ("emoji" is the canvas), a hub id, a diffusers folder, or a single .safetensors checkpoint.
        dtype: of the weights, a torch.dtype or its name; by default ("auto" too) float32 on the CPU, elsewhere what the model's
            own metadata says or float16; "stored" is that of a folder's denoiser on disk where the CPU computes in it. Weights
            that lie on disk in what is asked for are mapped, not copied.
        device: "cpu", "cuda", "mps"; the best one present by default.
        config: for a checkpoint, a diffusers folder or hub id that says how its components are built, and holds those that the
            checkpoint lacks; by default those of the checkpoint's family, from the Hub's cache or the Hub.
        variant: which of a folder's weights, "fp16" for `*.fp16.safetensors`; found by itself where there are no plain ones.
        offload: where weights wait until they are needed: on the device ("none"), whole networks in memory ("model"), single
            layers in memory ("group", "sequential": the least memory, the slowest), as diffusers does it.
        text_only: only what closed forms read, where the model is a UNet with CLIP text encoders: these in float32, nothing of
            what only drawing needs, and the UNet on the meta device, its weights read from the files when they are asked
            for. Other models are loaded as a whole.

    Raises:
        UsageError: options that contradict each other or the model.
        EffaceError: nothing is found there, it is no pipeline, it holds tensors that nobody would read, or it would have to
            be unpickled.
    """
    from efface.io.device import best_device
    from efface.models.vlm_folder import is_vlm_folder

    path = embedded.folder(str(name)) if str(name) in embedded.names() else Path(name)
    chosen = best_device(device)
    if is_vlm_folder(path):
        return _vision_language(path, dtype, chosen.type, config, variant, offload)
    _check(name, path, chosen.type, config, variant, offload)
    dtype = _dtype(dtype, path, chosen.type)
    try:
        if text_only and not path.is_file():
            text = _text_of(path, str(chosen), variant)
            if text is not None:
                return text
        if path.is_file():
            from efface.models.single_file import open_checkpoint

            pipeline = open_checkpoint(path, dtype, config, text_only=text_only)
        else:
            pipeline = _folder(path, dtype, variant)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EffaceError(
            f"no pipeline could be loaded from {str(name)!r} ({reason}): expected 'emoji', a hub id, a folder or a file."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if text_only:
        from efface.models.text_only import move_text_encoders

        return move_text_encoders(pipeline, str(chosen))
    return _placed(pipeline, chosen, offload)


def _check(
    name: str | Path, path: Path, device: str, config: str | Path | None, variant: str | None, offload: str
) -> None:
    """Raise for a name that is none, and for options that contradict each other or it."""
    if not str(name).strip():
        raise UsageError("the model's name is empty: give 'emoji', a hub id, a folder or a .safetensors file.")
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise EffaceError(
            f"{path} is a pickled checkpoint, which can run code when opened: convert it to .safetensors first."
        )
    if path.is_dir() and not (path / "model_index.json").exists():
        raise EffaceError(f"{path} is a folder without model_index.json: expected a diffusers pipeline's folder.")
    if config is not None and not path.is_file():
        raise UsageError(
            f"config is {str(config)!r}, which says how a single checkpoint's components are built, but {str(name)!r} is none: "
            "leave it out."
        )
    if variant is not None and path.is_file():
        raise UsageError(f"variant is {variant!r}, but {path} is a single checkpoint, which has none: leave it out.")
    if offload not in (*Offload.__args__,):
        raise UsageError(f"offload is {offload!r}; expected one of: {', '.join(Offload.__args__)}.")
    if offload != "none" and device == "cpu":
        raise UsageError(
            f"offload is {offload!r}, but the device is cpu, where weights lie in memory anyway: leave one of them out."
        )


def _vision_language(
    folder: Path, dtype: Any, device: str, config: str | Path | None, variant: str | None, offload: str
) -> Any:
    """The model in a LLaVA's folder; raises UsageError for options of pipelines."""
    from efface.models.vlm import load_vlm

    for name, given in (("config", config), ("variant", variant), ("offload", None if offload == "none" else offload)):
        if given is not None:
            raise UsageError(
                f"{name} is {str(given)!r}, but {folder} is a vision-language model, which has none: leave it out."
            )
    return load_vlm(folder, dtype=_dtype(dtype, folder, device), device=device)


def _dtype(named: Any, path: Path, device: str) -> Any:
    """The precision that was named; else float32 on the CPU, and what the model's own metadata says or float16 elsewhere."""
    import torch

    from efface.models.metadata import metadata_in

    if isinstance(named, torch.dtype):
        return named
    if named not in (None, "auto", STORED):
        if named not in DTYPES:
            raise UsageError(f"dtype is {named!r}; expected one of: auto, {STORED}, {', '.join(DTYPES)}.")
        return getattr(torch, named)
    if device == "cpu":
        from efface.models.files import stored_dtype

        kept = stored_dtype(path) if named == STORED and metadata_in(path) is None else None
        return kept if kept in _half_precisions() else torch.float32
    metadata = metadata_in(path)
    return torch.float16 if metadata is None else getattr(torch, metadata.dtype)


def _half_precisions() -> tuple[Any, ...]:
    """The half precisions in which this CPU's convolutions are not emulated."""
    import torch

    native: Any = torch.ops.mkldnn
    known = ((torch.float16, "_is_mkldnn_fp16_supported"), (torch.bfloat16, "_is_mkldnn_bf16_supported"))
    return tuple(dtype for dtype, asked in known if torch.backends.mkldnn.is_available() and getattr(native, asked)())


def _text_of(path: Path, device: str, variant: str | None) -> Any:
    """What closed forms read of a diffusers folder, or of the Hub's cache or the Hub; None where it must be loaded whole."""
    from efface.models.files import local_folder
    from efface.models.text_only import from_folder

    return from_folder(path if path.is_dir() else local_folder(path.as_posix(), variant), device, variant)


def _folder(path: Path, dtype: Any, variant: str | None) -> Any:
    """A pipeline from a diffusers folder, or from the Hub's cache or the Hub."""
    from diffusers import DiffusionPipeline

    from efface.models.files import local_folder, variant_in

    name = path.as_posix()
    if not path.is_dir():
        path = local_folder(name, variant)
    if variant is None:
        variant = variant_in([file.relative_to(path).as_posix() for file in path.rglob("*.safetensors")])
        if variant is not None:
            log.warning("%s has no plain weights: its variant %s is loaded", path, variant)
    pipeline = (_own_class(path) or DiffusionPipeline).from_pretrained(
        str(path), dtype=dtype, use_safetensors=True, variant=variant, local_files_only=True
    )
    pipeline.register_to_config(_name_or_path=name)  # the Hub's name, not the folder of its cache
    return pipeline


def _own_class(path: Path) -> Any:
    """efface's own class of a folder's pipeline; None where it is diffusers'."""
    try:
        named = json.loads((path / "model_index.json").read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None  # said by who reads it
    if named not in OWN_PIPELINES:
        return None
    module, _, name = OWN_PIPELINES[named].partition(":")
    return getattr(importlib.import_module(module), name)


def _placed(pipeline: Any, device: Any, offload: Offload) -> Any:
    """The pipeline on its device, or with diffusers' hooks that move its weights there."""
    import torch

    if offload == "none":
        return pipeline.to(device, silence_dtype_warnings=True)  # efface decodes and saves what it draws in float32
    try:
        if offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        else:
            pipeline.enable_group_offload(
                onload_device=torch.device(device), offload_type="leaf_level", use_stream=device.type == "cuda"
            )
    except ImportError as error:
        raise EffaceError(f"offload {offload!r} needs accelerate: install it with `pip install accelerate`.") from error
    return pipeline
