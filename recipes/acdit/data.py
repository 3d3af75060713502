"""What the transformer learns from: single objects on plain grounds, as latents of the embedded autoencoder, with captions.

python -m recipes.acdit.data --work build/acdit
"""

from __future__ import annotations

import os
import random
from itertools import product
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from efface.io import embedded
from recipes.emoji import fetch, render
from recipes.emoji.bank import latents_of
from recipes.emoji.captions import caption_of
from recipes.emoji.compose import CELL, SIZES, Composer, Item, Scene, pack
from recipes.emoji.places import SIDE
from recipes.emoji.training import DEVICE, stage
from recipes.emoji.words import BENCHMARK, GROUNDS, STYLES

LENGTH = 40
"""Positions of a caption, as the embedded text encoder reads them."""
LARGE = (3, 4)
"""Sizes of the objects: the two largest."""
WHITE = 0.6
"""Share of the scenes on white."""
MODEL = embedded.folder("emoji")
"""Its autoencoder, text encoder and tokenizer are read, and never copied."""


def scenes_of(rng: random.Random, each: int) -> list[Scene]:
    """So many scenes of every benchmark object in every style: large, near the middle, on plain grounds."""
    pairs = product(range(len(BENCHMARK)), range(len(STYLES)))
    return [_scene(rng, thing, style) for thing, style in pairs for _ in range(each)]


def _scene(rng: random.Random, thing: int, style: int) -> Scene:
    size = rng.choice(LARGE)
    slack = (SIDE - SIZES[size]) // CELL
    row, column = (CELL * (slack // 2 + rng.choice((0, slack % 2))) for _ in range(2))
    ground = 0 if rng.random() < WHITE else rng.randrange(1, len(GROUNDS))
    item = Item(thing, size, row, column, False)
    return Scene((item,), style, place=-1, ground=ground, variant=0, relation=-1, tint=(1.0, 1.0, 1.0))


def autoencoder() -> AutoencoderKL:
    """The embedded model's, in float32."""
    vae = AutoencoderKL.from_pretrained(MODEL / "vae", torch_dtype=torch.float32).to(DEVICE)
    return vae.eval().requires_grad_(False)


def make(work: Path, each: int, captions: int, seed: int) -> dict[str, Tensor]:
    """Latents (scenes 16 12 12) and states of captions (scenes captions 40 256) in half precision, style and object of each."""
    rng = random.Random(seed)
    scenes = scenes_of(rng, each)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    texts = [caption_of(scene, rng, empty=0) for scene in scenes for _ in range(captions)]
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    composer, vae = Composer(work, DEVICE, variants=1, processes=1), autoencoder()
    encoder = CLIPTextModel.from_pretrained(MODEL / "text_encoder", torch_dtype=torch.float32).to(DEVICE).eval()
    packed = pack(scenes)
    with torch.no_grad():
        latents = [
            latents_of(vae, composer(composer.to_device({k: v[i] for k, v in packed.items()}))).half()
            for i in torch.arange(len(scenes)).split(64)
        ]
        states = [encoder(part.to(DEVICE)).last_hidden_state.half() for part in ids.split(128)]
        empty = tokenizer([""], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        nothing = encoder(empty.to(DEVICE)).last_hidden_state
    return {
        "latents": torch.cat(latents),
        "states": torch.cat(states).unflatten(0, (len(scenes), captions)),
        "nothing": nothing[0],
    }


def main(work: Path, each: int = 32, captions: int = 2, seed: int = 0) -> None:
    """Write `scenes.safetensors` with latents and captions' states, where it is not there yet."""
    if (work / "scenes.safetensors").exists():
        return
    if not (work / "drawings.safetensors").exists():
        for name in (*STYLES, "names"):
            fetch.fetch_package(work, name)
        render.main(work)
    made = make(work, each, captions, seed)
    save_file({name: values.cpu().contiguous() for name, values in made.items()}, work / "scenes.partial")
    os.replace(work / "scenes.partial", work / "scenes.safetensors")
    print(f"{len(made['latents'])} scenes, latents' std {made['latents'].float().std():.3f}", flush=True)


def load(work: Path) -> dict[str, Tensor]:
    """What `main` wrote, on the device."""
    return load_file(work / "scenes.safetensors", device=str(DEVICE))


if __name__ == "__main__":
    options = stage(__doc__ or "", each=32, captions=2, seed=0)
    main(options.work, options.each, options.captions, options.seed)
