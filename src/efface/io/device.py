"""Where tensors lie when the user says nothing."""

from __future__ import annotations

import torch


def best_device(device: str | torch.device | None = None) -> torch.device:
    """The device that was named, or the best one present."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
