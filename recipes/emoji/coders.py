"""Train the canvas's sparse autoencoders, take their statistics, and measure them.

python -m recipes.emoji.coders --work build/emoji --publish src/efface/embedded/emoji/sae
python -m recipes.emoji.coders --steps 20 --images 8           # a look, in a minute
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.sae_data import SITES, all_captions, labelled_samples
from efface.profiles.emoji.settings import GUIDANCE, SAE_TRAINING, STEPS
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, caption
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.files import load_sae, save_sae
from efface.sae.harvest import HarvestConfig
from efface.sae.quality import denoising_losses, quality
from efface.sae.statistics import statistics
from efface.sae.stream import ActivationStream
from efface.sae.train import train
from recipes.emoji.data import background_colours, load_autoencoder, load_drawings, place, trained_pairs

BEGIN, END = "<!-- coders: python -m recipes.emoji.coders -->", "<!-- end of coders -->"


def clean_latents(work: Path, model: Model) -> tuple[Tensor, list[str]]:
    """Latents of the benchmark's drawings on white, and their captions."""
    pairs = torch.tensor([pair for pair in trained_pairs().tolist() if pair[0] < len(BENCHMARK)])
    count = len(pairs)
    middle, mirrored = torch.full((count,), 4), torch.zeros(count, dtype=torch.bool)
    white = background_colours()[torch.zeros(count, dtype=torch.long)]
    pictures = place(load_drawings(work)[pairs[:, 0], pairs[:, 1]], white, middle, middle, mirrored)
    vae = load_autoencoder(work)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode() * vae.config["scaling_factor"]
    return latents, [caption(OBJECTS[thing].name, STYLES[style]) for thing, style in pairs.tolist()]


def last_dead(run: Path) -> dict[str, float]:
    """Share of dead latents in the last line of a run's log."""
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    return {name: figures["dead"] for name, figures in line["sites"].items()}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| site | k = 8 | k = 16 | k = 32 | dead | rise of the denoising loss |", "|---|---|---|---|---|---|"]
    for name, f in figures.items():
        cells = [f"{f['fvu'][k]:.3f} (PCA {f['pca'][k]:.3f})" for k in (8, 16, 32)]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {f['dead']:.1%} | {f['rise']:.2%} |")
    return "\n".join([*lines, "| target | | ≤ 0.17, half of PCA's | | < 5% | < 3% |"])


def main(
    work: Path = Path("build/emoji"),
    steps: int | None = None,
    images: int = 128,
    seeds: int = 2,
    docs: Path = Path("docs"),
    publish: Path | None = None,
) -> None:
    """Train, or go on training, and write `sae/`: a folder a site with the autoencoder and its statistics.

    Args:
        work: folder of the recipe's products.
        steps: optimiser steps; the canvas's setting by default.
        images: pictures drawn for each round of training.
        seeds: pictures of every benchmark prompt for the statistics.
        docs: where the documentation lies.
        publish: also write the autoencoders here.
    """
    config = replace(SAETrainConfig(**SAE_TRAINING), **({"steps": steps} if steps else {}))
    model = Model(load("emoji"))
    harvest = HarvestConfig(SITES, STEPS, GUIDANCE)
    stream = ActivationStream(model, all_captions(), harvest, images=images)
    run = work / "sae-run"
    trained = train(stream, config, run, report=lambda line: print(line, flush=True), every=50)
    coders: dict[str, SparseAutoencoder] = {}
    for name, coder in trained.items():
        save_sae(
            coder.at_inference().half(),
            work / "sae" / name,
            site=name,
            harvest=asdict(harvest),
            training=asdict(config),
        )
        coders[name] = load_sae(work / "sae" / name)
    pictures, kinds = labelled_samples(seeds)
    for name, measured in statistics(model, coders, pictures, kinds, harvest).items():
        measured.save(work / "sae" / name / "statistics.safetensors")
    held_out, dead = stream.round(10**6), last_dead(run)
    clean, captions = clean_latents(work, model)
    losses = denoising_losses(model, clean.repeat(4, 1, 1, 1), captions * 4, coders)
    figures = {
        name: quality(coder, held_out[name])._asdict()
        | {"dead": dead[name], "rise": losses[name] / losses["plain"] - 1}
        for name, coder in coders.items()
    }
    page = docs / "canvas.md"
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}")
    if publish:
        shutil.copytree(work / "sae", publish, dirs_exist_ok=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
