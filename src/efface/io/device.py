"""Where tensors lie when the user says nothing."""

from __future__ import annotations

import torch

from efface.errors import UsageError


def best_device(device: str | torch.device | None = None) -> torch.device:
    """The device that was named, or the best one present; raises UsageError where torch has no such device."""
    if device is None:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"the device {str(device)!r} is unknown; expected cpu, cuda, cuda:1 or mps.") from error
    count = {"cuda": torch.cuda.device_count, "mps": lambda: int(torch.backends.mps.is_available())}
    if named.type in count and (named.index or 0) >= count[named.type]():
        raise UsageError(f"the device {str(device)!r} was named, and torch finds none here: take another, such as cpu.")
    return named
