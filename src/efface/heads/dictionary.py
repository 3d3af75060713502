"""A dictionary of parts for a judge's features: non-negative sparse coding (Hoyer, 2002), by coordinate descent.

    x / |x| in two signs ≈ a D:   min  |[relu(x), relu(−x)] − a D|² / 2 + μ |a|₁   with a, D ≥ 0, rows of D of unit length

UCBM (TMLR 2025) factorises without μ; then half of the parts are in every picture and few stand for one thing. Features may have
either sign, and parts may not: each sign has columns of its own. Codes are solved for each row by itself, so that what is said of a
picture depends on no other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PARTS = 128
"""Parts of a dictionary (UCBM's judge)."""
SPARSITY = 0.1
"""μ, beside features of unit length."""
SWEEPS = 100
"""Sweeps of a factorisation, and of the codes of a row."""


def factorise(features: Tensor, parts: int = PARTS, *, seed: int = 0) -> Tensor:
    """A dictionary (parts 2·width) with rows of unit length, of features (rows width); at most as many parts as rows."""
    signed = both_signs(features)
    chosen = torch.randperm(len(signed), generator=torch.Generator().manual_seed(seed))[:parts]
    dictionary = F.normalize(signed[chosen], dim=1)  # rows that occur are a better beginning than noise
    codes = (signed @ dictionary.T).clamp(min=0)
    for _ in range(SWEEPS):
        _sweep(codes, signed @ dictionary.T - SPARSITY, dictionary @ dictionary.T)
        by_part = dictionary.T.contiguous()
        _sweep(by_part, signed.T @ codes, codes.T @ codes)
        dictionary = F.normalize(by_part.T.contiguous(), dim=1)
    return dictionary


def codes_of(features: Tensor, dictionary: Tensor) -> Tensor:
    """The codes a ≥ 0 (rows parts) of features (rows width) by a dictionary, in float64."""
    products = both_signs(features) @ dictionary.double().T - SPARSITY
    gram = dictionary.double() @ dictionary.double().T
    codes = torch.zeros_like(products)
    for _ in range(SWEEPS):
        _sweep(codes, products, gram)
    return codes


def both_signs(features: Tensor) -> Tensor:
    """[relu(x), relu(−x)] (rows 2·width) of features (rows width) at unit length, in float64."""
    features = F.normalize(features.double(), dim=1)
    return torch.cat([features.relu(), (-features).relu()], 1)


def _sweep(codes: Tensor, products: Tensor, gram: Tensor) -> None:
    """One round of coordinate descent on |X − a D|²/2 + μ |a|₁ over a ≥ 0, column by column, in place.

    Args:
        codes: a (rows parts).
        products: X Dᵀ − μ (rows parts).
        gram: D Dᵀ (parts parts).
    """
    for part in range(codes.shape[1]):
        curvature = gram[part, part].clamp(min=1e-12)
        slope = products[:, part] - codes @ gram[:, part]
        codes[:, part] = (codes[:, part] + slope / curvature).clamp(min=0)
