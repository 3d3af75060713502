"""The most memory that a piece of work takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class Peak:
    """Peak memory of a piece of work, filled in when it is done."""

    mb: float = 0.0
    """Megabytes (10⁶ bytes): of CUDA's memory where the work is done there, otherwise of the process's resident memory,
    the loaded model included."""


@contextmanager
def peak_memory(device: Any) -> Iterator[Peak]:
    """Measure the peak of what is done inside; where the system cannot begin the peak anew (outside Linux), it is that of
    the process since its start.

    Args:
        device: torch.device on which the work is done.
    """
    import torch

    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.mb = torch.cuda.max_memory_allocated(device) / 1e6
        return
    with suppress(OSError):
        _RESET.write_text("5")  # the kernel's high-water mark begins anew
    yield peak
    peak.mb = _resident_peak() / 1e6


def _resident_peak() -> int:
    """Bytes: the high-water mark of this process's resident memory."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
