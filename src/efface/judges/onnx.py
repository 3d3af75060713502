"""ONNX networks, run by onnxruntime on as many threads as torch has."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from efface.errors import EffaceError

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def session(path: Path, *, extra: str) -> Any:
    """An onnxruntime session, on CUDA where onnxruntime was built for it.

    Args:
        path: of the `.onnx` file.
        extra: of efface that brings onnxruntime, for the error.

    Raises:
        EffaceError: onnxruntime is not installed, or the file is damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EffaceError(
            f"the package onnxruntime is not installed: install it with pip install 'efface[{extra}]'."
        ) from error
    present = onnxruntime.get_available_providers()
    try:
        return _opened(path, torch.get_num_threads(), tuple(p for p in _PROVIDERS if p in present))
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise EffaceError(f"{path} is damaged or no ONNX network: fetch another copy of it.") from error


@lru_cache(4)
def _opened(path: Path, threads: int, providers: tuple[str, ...]) -> Any:
    """One session for all judges of a network: thresholds are applied outside of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(path, options, providers=list(providers))
