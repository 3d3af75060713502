"""How near two computations of the same numbers come: the order of a sum is the kernel's affair, and each processor has its own."""

from __future__ import annotations

import torch
from torch import Tensor

TEXT = 500
"""Of text states: two layers with attention to keys of up to 40 multiply the rounding of one sum. The tiny encoders differ by
25 in float32 from float64, and by 100 where every kernel's results are moved by 2."""


def assert_rounded(found: Tensor, expected: Tensor, units: float = TEXT) -> None:
    """Equal up to so many units in the last place of the largest expected value."""
    atol = units * torch.finfo(expected.dtype).eps * float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
