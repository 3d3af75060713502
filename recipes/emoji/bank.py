"""A bank of composed scenes on disk: what they show, their captions' tokens, and their latents.

python -m recipes.emoji.bank --count 400000
python -m recipes.emoji.bank --part scenes     # what needs no autoencoder; --part latents adds the rest
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from recipes.emoji.captions import caption_of
from recipes.emoji.compose import Composer, pack, sample_scene
from recipes.emoji.corpus import LENGTH
from recipes.emoji.training import DEVICE, autocast, stage, wait_for

PART = 10_000
"""Scenes that one process makes at a time."""
CAPTIONS = 2
"""Captions of every scene."""


def make(work: Path, variants: int, seed: int, count: int) -> dict[str, Tensor]:
    """Random scenes, packed, with `captions` (count 2 40), int16."""
    rng = random.Random(seed)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    scenes = [sample_scene(rng, variants) for _ in range(count)]
    captions = [caption_of(scene, rng) for scene in scenes for _ in range(CAPTIONS)]
    ids = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH).input_ids
    return pack(scenes) | {"captions": torch.tensor(ids, dtype=torch.int16).unflatten(0, (count, CAPTIONS))}


def load_autoencoder(work: Path) -> AutoencoderKL:
    """The trained autoencoder, on the device."""
    vae = AutoencoderKL.from_pretrained(work / "autoencoder", torch_dtype=torch.float32).to(DEVICE)
    return vae.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Scaled latents (batch 16 12 12) of pictures."""
    with autocast():
        mode = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
    return mode.float() * vae.config["scaling_factor"]


def parts_of(work: Path, scenes: dict[str, Tensor]) -> Path:
    """The folder of latents of these scenes, and of no others, while they are made."""
    return work / f"latents-{hashlib.sha256(scenes['captions'].numpy().tobytes()).hexdigest()[:12]}"


def encoded(work: Path, vae: AutoencoderKL, composer: Composer, scenes: dict[str, Tensor]) -> Iterator[Tensor]:
    """Latents of scenes, part by part in half precision; those that a stopped run wrote are read."""
    folder = parts_of(work, scenes)
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(torch.arange(len(scenes["style"])).split(2048)):
        path = folder / f"{number:05}.safetensors"
        if not path.exists():
            drawn = {name: values for name, values in scenes.items() if name != "captions"}
            batches = part.split(512 if DEVICE.type == "cuda" else 64)
            made = [latents_of(vae, composer(composer.to_device({k: v[i] for k, v in drawn.items()}))) for i in batches]
            save_file({"latents": torch.cat(made).half().cpu().contiguous()}, path.with_suffix(".partial"))
            os.replace(path.with_suffix(".partial"), path)
        yield load_file(path)["latents"]


def main() -> None:
    """Write `scenes.safetensors` and `latents.safetensors`."""
    options = stage(__doc__ or "", count=400_000, seed=0, processes=2, variants=300, part="both")
    if options.part != "latents":
        counts = [PART] * (options.count // PART) + ([options.count % PART] if options.count % PART else [])
        seeds = range(options.seed * 100_000, options.seed * 100_000 + len(counts))
        with ProcessPoolExecutor(options.processes) as pool:
            parts = list(pool.map(partial(make, options.work, options.variants), seeds, counts))
        save_file({k: torch.cat([part[k] for part in parts]) for k in parts[0]}, options.work / "scenes.partial")
        os.replace(options.work / "scenes.partial", options.work / "scenes.safetensors")
        print(f"{options.count} scenes", flush=True)
    if options.part != "scenes":
        composer = Composer(options.work, DEVICE, options.variants, options.processes)
        wait_for(options.work / "autoencoder" / "config.json", options.work / "scenes.safetensors")
        vae = load_autoencoder(options.work)
        scenes = load_file(options.work / "scenes.safetensors")
        latents = list(encoded(options.work, vae, composer, scenes))
        save_file({"latents": torch.cat(latents).contiguous()}, options.work / "latents.partial")
        os.replace(options.work / "latents.partial", options.work / "latents.safetensors")
        shutil.rmtree(parts_of(options.work, scenes))
        print(f"{len(scenes['style'])} latents, std {latents[0].float().std():.3f}", flush=True)


if __name__ == "__main__":
    main()
