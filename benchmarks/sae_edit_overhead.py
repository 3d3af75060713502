"""Cost of SAeUron's edit inside the denoiser, at the real dimensions of SD 1.5: time and memory beside the call it sits in.

    python benchmarks/sae_edit_overhead.py                  # 10 GB of memory, about four minutes on two cores
    python benchmarks/sae_edit_overhead.py --latent-side 32 # a smaller picture, for a look

Random weights and values, real shapes: a guided call of batch 2 on 64 x 64 latents, the site up_blocks.1.attentions.1
(16 x 16 positions of 1280 channels), an autoencoder of 20,480 latents with k = 32.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from diffusers import UNet2DConditionModel
from torch import Tensor

from efface.erasures.activation import members
from efface.erasures.latent_edit import LatentEdit
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder

WIDTH, LATENTS, K, LEVELS = 1280, 20_480, 32, 50
CHOSEN = {"1 concept": 8, "10 concepts": 80, "50 concepts": 400, "1 anchored": 512}
"""Latents over all levels: 8 a concept (paper: 1 to 3 at each level), and those of one concept with `anchored`."""
SD15 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
}


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median of several runs."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]


def coder() -> SparseAutoencoder:
    """An untrained autoencoder of the paper's size."""
    return SparseAutoencoder(SAEConfig(WIDTH, LATENTS, K)).requires_grad_(False)


def edit_of(full: SparseAutoencoder, count: int) -> LatentEdit:
    """An edit of `count` latents, all chosen at every timestep."""
    chosen = torch.randperm(LATENTS)[:count]
    table = torch.ones(LEVELS, len(chosen))
    return LatentEdit(
        encoder=full.encoder.weight[chosen],
        bias=full.encoder.bias[chosen],
        centre=full.b_dec,
        decoder=full.W_dec[chosen],
        latents=chosen,
        timesteps=torch.linspace(999, 1, LEVELS),
        gate=0.1 * table,
        gain=-table,
        shift=0 * table,
    )


def ways(full: SparseAutoencoder, states: Tensor, count: int) -> dict[str, Callable[[], Tensor]]:
    """What each form adds to the states (2 tokens width)."""
    edit, level = edit_of(full, count), torch.tensor([500.0])

    def dense() -> Tensor:
        """Both codes written out and decoded by whole matrix products, as the public code does."""
        flat = states.flatten(0, 1)
        z = full.encode(flat).dense(LATENTS)
        edited = z.clone()
        at = edit.nearest(level)[0]
        part = z[:, edit.latents]
        edited[:, edit.latents] = torch.where(part > edit.gate[at], edit.gain[at] * part, part)
        return (edited @ full.W_dec - z @ full.W_dec).view_as(states)

    return {
        "fast": lambda: edit.delta(states, level, 1.0),
        "exact": lambda: edit.delta(states, level, 1.0, members(full, states, edit.latents)),
        "dense": dense,
    }


def peak_mb(way: str, count: int) -> float:
    """Memory that one form adds, in a process of its own: the autoencoder (if it needs it) and its work."""
    command = [sys.executable, __file__, "--only", way, "--latents", str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def only_one(way: str, count: int) -> None:
    """Print the megabytes that one form needs beyond the states."""
    states, full = torch.randn(2, 256, WIDTH), coder()
    work = ways(full, states, count)[way]
    held = 0.0 if way == "fast" else sum(p.numel() * 4 for p in full.parameters()) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux)
    before = resident_peak_mb()
    with torch.no_grad():
        work()
    print(held + resident_peak_mb() - before)


def resident_peak_mb() -> float:
    """The process's largest resident memory since the peak was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def call_seconds(latent_side: int) -> float:
    """A guided call of SD 1.5's denoiser with random weights."""
    unet = UNet2DConditionModel.from_config(SD15).eval()  # type: ignore[arg-type]
    latents, text = torch.randn(2, 4, latent_side, latent_side), torch.randn(2, 77, 768)
    return seconds(lambda: unet(latents, 500, text), 2)


def main(latent_side: int = 64, repeats: int = 9, only: str | None = None, latents: int = 8) -> None:
    """Time the denoiser's call, then every form of the edit by itself.

    Args:
        latent_side: of the latents; 64 is a picture of 512 px.
        repeats: of each edit.
        only: measure the memory of one form (used by this script itself).
        latents: chosen, with `only`.
    """
    torch.manual_seed(0)
    if only:
        only_one(only, latents)
        return
    figures: dict[str, float] = {}
    with torch.no_grad():
        call = call_seconds(latent_side)
        print(f"guided call of the denoiser: {call:.2f} s", flush=True)
        full, states = coder(), torch.randn(2, (latent_side // 4) ** 2, WIDTH)
        for label, count in CHOSEN.items():
            for way, work in ways(full, states, count).items():
                taken = seconds(work, repeats)
                memory = peak_mb(way, count)
                figures.setdefault(way, round(taken / call, 5))
                print(
                    f"{label:11} {way:5}: {1000 * taken:7.2f} ms, {taken / call:.3%} of the call, {memory:.0f} MB",
                    flush=True,
                )
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
