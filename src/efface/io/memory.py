"""How much memory is left, and whether an error means that it ran out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and figures of a container under /sys/fs/cgroup: version 2, version 1."""


def free_bytes(device: Any) -> int:
    """Bytes that can still be taken on a torch.device: of the accelerator's memory, or of this machine's or container's."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    import psutil

    return int(min(psutil.virtual_memory().available, _left_in_container(Path("/sys/fs/cgroup"))))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python raised an error because memory ran out."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator, MPS and cuBLAS say it in words only.
    words = ("not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def release() -> None:
    """Give back what nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _left_in_container(root: Path) -> float:
    """Bytes left under a container's limit; infinite without one. Cached files count as free, they are given up."""
    for names in CGROUPS:
        limit, used, figures = (root / name for name in names)
        try:
            most = limit.read_text().strip()
            cached = dict(line.split() for line in figures.read_text().splitlines()).get("inactive_file", "0")
            if most != "max":
                return max(0, int(most) - int(used.read_text()) + int(cached))
        except (OSError, ValueError):
            continue
    return float("inf")
