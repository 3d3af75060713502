"""Options of training; free of torch, so that the command line can list them quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from efface.errors import UsageError


@dataclass(frozen=True)
class SAETrainConfig:
    """Options of training autoencoders."""

    latents: int | None = None
    """Size of the dictionary; by default `expansion` times the site's width."""
    expansion: int = 16
    """Latents per channel of the site (paper: 16)."""
    k: int = 32
    """Active latents per vector, on average under batchtopk (paper: 32)."""
    multi_k: tuple[int, ...] = ()
    """Further numbers of active latents whose reconstructions count as much (Multi-TopK, arXiv 2406.04093)."""
    rule: Literal["topk", "batchtopk"] = "batchtopk"
    """Selection while training (paper: batchtopk)."""
    steps: int = 2000
    """Optimiser steps."""
    batch: int = 4096
    """Vectors per step and process (paper: 4096)."""
    passes: float = 1.0
    """Number of times each vector of a round is used before the next round is drawn."""
    lr: float = 4e-4
    """Adam's learning rate, falling linearly to 0 (paper: 4e-4)."""
    clip: float = 1.0
    """Largest norm of the gradient (paper: 1)."""
    alpha: float = 1 / 32
    """Weight of AuxK (paper: 1/32)."""
    dead_after: float = 0.1
    """Share of the run without firing after which a latent counts as dead (paper: 10 M vectors)."""
    supervised: Literal["none", "saemnesia", "saeparate"] = "none"
    """What the pictures' labels are used for: `saemnesia` gives every concept one latent, `saeparate` pictures of one concept like
    codes (both with logits before the ReLU, without a further layer in the encoder)."""
    supervision: float = 1.0
    """Weight of that beside the reconstruction (SAEParate: 0.1 for objects, 0.01 for styles, 1 for both)."""
    groups: int = 256
    """Pictures at a timestep that it looks at in each step."""
    as_published: bool = False
    """Train as SAeUron's public code does: AuxK over the batch and on the negated residual, with gradients into the reconstruction
    and latents after the ReLU; Adam's ε 6.25e-10; clipping before the decoder's parallel part is removed; dead after 10 M vectors."""
    seed: int = 0
    """Seed of the initial weights and of every batch."""

    def __post_init__(self) -> None:
        for name in ("expansion", "k", "steps", "batch", "passes", "lr", "clip", "supervision", "groups"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected a number above 0.")
        for k in (self.k, *self.multi_k):  # checked before any picture is drawn
            if k < 1 or (self.latents is not None and k > self.latents):
                most = "at least 1" if self.latents is None else f"1 to {self.latents}, the number of latents"
                raise UsageError(f"k is {k}; expected {most}.")
