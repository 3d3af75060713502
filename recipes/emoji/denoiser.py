"""Train the denoiser and its text encoder on the autoencoder's latents, and assemble the pipeline.

    python -m recipes.emoji.denoiser --work build/emoji
    python -m recipes.emoji.denoiser --work build/emoji --publish src/efface/embedded/emoji
    python -m recipes.emoji.denoiser --steps 20             # a look, in a minute

The text encoder is first taught to tell objects, styles and backgrounds apart from their captions alone, as
CLIP's is taught before a diffusion model sees it; then both are trained together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from efface.models.metadata import write_metadata
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES
from recipes.emoji.captions import COLOURS, LENGTH, sample_caption, train_tokenizer
from recipes.emoji.data import background_colours, load_autoencoder, load_drawings, place, trained_pairs
from recipes.emoji.muon import Muon
from recipes.emoji.training import DEVICE, Run, cosine_tail, step_generator

WIDTH = 192
"""Width of the text states."""
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""Stable Diffusion's noise schedule."""
STANDARD: dict[str, Any] = {"steps": 12, "guidance": 3.0}
"""The standard solver; steps chosen by agreement with 100 DDIM steps, see docs/canvas.md."""
BOOST = 200.0
"""Largest weight of levels where noise prevails."""
RELATIVES = (
    "tiger", "bear", "pig", "elephant", "bird", "tropical drink", "tractor", "helicopter", "trumpet", "tulip", "cherries",
    "balloon",
)  # fmt: skip
"""Objects beside the benchmark's that are like one of them, shown twice as often as the rest."""


class Views:
    """Latents of all trained pairs with what they show: object, style, background (views of each).

    Every drawing appears on every background. `mirror` and `shift` add variety that no caption speaks of: with a small
    budget the denoiser spends most of its steps on how a drawing lies instead of what it is, so both are off by default.

    Args:
        work: folder with the drawings.
        vae: the autoencoder.
        mirror: whether drawings are also shown mirrored.
        shift: latent cells (4 px each) by which a drawing may move off the centre either way: 0 or 1.
    """

    def __init__(self, work: Path, vae: AutoencoderKL, mirror: bool, shift: int):
        drawings, colours = load_drawings(work), background_colours()
        pairs, places = trained_pairs(), range(-shift, shift + 1)
        index = torch.cartesian_prod(
            torch.arange(len(pairs)), torch.arange(len(colours)), torch.arange(1 + mirror),
            torch.tensor([4 + 4 * p for p in places]), torch.tensor([4 + 4 * p for p in places]),
        )  # fmt: skip
        pair, self.colour, flipped, row, column = index.unbind(1)
        self.object, self.style = pairs[pair].unbind(1)
        latents = []
        with torch.no_grad():
            for i in torch.arange(len(index)).split(64):
                rgba = drawings[self.object[i], self.style[i]]
                pictures = place(rgba, colours[self.colour[i]], row[i], column[i], flipped[i].bool()).to(DEVICE)
                latents.append(vae.encode(pictures).latent_dist.mode() * vae.config["scaling_factor"])
        self.latents = torch.cat(latents)
        # Nine pictures in ten are white, as the prompts of every benchmark are; and the benchmark's objects, on which
        # every figure of the project is measured, and their relatives are shown more often than the others.
        white = torch.where(self.colour == 0, 0.9 * (len(colours) - 1), 0.1)
        relatives = torch.tensor([thing.name in RELATIVES for thing in OBJECTS])
        self.weights = white * torch.where(self.object < len(BENCHMARK), 6.0, 1.0 + relatives[self.object])

    def batch(self, count: int, seed: int, step: int) -> tuple[Tensor, list[str], torch.Generator]:
        """Latents (count 4 16 16) and fresh captions of one training step, and its generator for what else it draws."""
        generator, rng = step_generator(seed, step), random.Random(step)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()
        captions = [sample_caption(int(self.object[i]), int(self.style[i]), int(self.colour[i]), rng) for i in chosen]
        return self.latents[chosen], captions, generator


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model of three layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=6,
            max_position_embeddings=LENGTH,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained denoiser of 11 M weights with cross-attention at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids (batch tokens), padded to LENGTH."""
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


def teach_words(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, steps: int, seed: int) -> float:
    """Teach the text encoder to name object, style and background of a caption; returns the last loss in nats."""
    heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in (len(OBJECTS), len(STYLES), len(COLOURS))).to(DEVICE)
    optimiser = torch.optim.AdamW([*text_encoder.parameters(), *heads.parameters()], lr=1e-3, weight_decay=1e-2)
    rng, loss = random.Random(seed), torch.zeros(())
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * cosine_tail(step, steps, warm=20)
        truth = [
            (rng.randrange(len(OBJECTS)), rng.randrange(len(STYLES)), rng.randrange(len(COLOURS))) for _ in range(128)
        ]
        ids = tokenise(tokenizer, [sample_caption(*t, rng, empty=0) for t in truth]).to(DEVICE)
        pooled = text_encoder(ids).pooler_output
        loss = sum(
            (
                F.cross_entropy(head(pooled), target)
                for head, target in zip(heads, torch.tensor(truth).to(DEVICE).T, strict=True)
            ),
            torch.zeros((), device=DEVICE),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


def denoising_loss(
    predict: Callable[..., Any], clean: Tensor, text: Tensor, alphas: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the noise at random levels, weighted by min(SNR, 5)/SNR (Hang et al. 2023), and by
    1/SNR up to BOOST where noise prevails.

    There the text decides what is drawn, and an error of the noise is a √(1/SNR) times larger error of the picture:
    unweighted, the model drew every object long before it told one hand's church from another's (after 5,600 steps the
    style judge was right on 31% of pictures, and at level 800 the text explained less of a picture than its object does).

    Args:
        predict: the denoiser.
        clean: latents (batch 4 16 16).
        text: text states (batch tokens width).
        alphas: share of signal of every level (levels,).
        generator: draws levels and noise, on the CPU.
    """
    level = torch.randint(len(alphas), (len(clean),), generator=generator)
    level[::2] = (2 * level[::2] + 3 * len(alphas)) // 5  # every other one from the noisiest two fifths
    level = level.to(DEVICE)
    noise = torch.randn(clean.shape, generator=generator).to(DEVICE)
    alpha = alphas[level]
    noisy = alpha.sqrt()[:, None, None, None] * clean + (1 - alpha).sqrt()[:, None, None, None] * noise
    predicted = predict(noisy.contiguous(memory_format=torch.channels_last), level, text).sample
    snr = alpha / (1 - alpha)
    weight = (snr.clamp(max=5) / snr) * (1 / snr).clamp(1, BOOST)
    return ((predicted - noise).square().mean((1, 2, 3)) * weight).mean()


def assemble(work: Path, run: Run, tokenizer: CLIPTokenizer, destination: Path) -> None:
    """Write the pipeline with averaged weights as a diffusers folder, fp16."""
    own = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in run.modules.items()}
    run.load_averaged()
    pipeline = StableDiffusionPipeline(
        vae=load_autoencoder(work),
        text_encoder=run.modules["text_encoder"],
        tokenizer=tokenizer,
        unet=run.modules["unet"],
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(destination)
    write_metadata(destination, pipeline, name="emoji", **STANDARD)
    pipeline.to(torch.float32)
    for name, module in run.modules.items():
        module.load_state_dict(own[name])


def main(
    work: Path = Path("build/emoji"),
    steps: int = 7000,
    batch: int = 32,
    lr: float = 1e-3,
    word_steps: int = 300,
    mirror: bool = False,
    shift: int = 0,
    seed: int = 0,
    start: Path | None = None,
    publish: Path | None = None,
) -> None:
    """Train, or go on training, and write `pipeline/` at every checkpoint.

    Args:
        work: folder of the recipe's products.
        steps: optimiser steps in all.
        batch: pictures a step.
        lr: learning rate before its cosine tail.
        word_steps: steps of the text encoder alone, on captions, before the denoiser starts.
        mirror: show every drawing mirrored as well.
        shift: latent cells by which pictures are moved off the centre, either way.
        seed: of the initial weights and of every batch.
        start: pipeline folder whose text encoder and denoiser to begin with (its autoencoder must be the one used).
        publish: also write the finished pipeline here.
    """
    torch.manual_seed(seed)
    vae, tokenizer = load_autoencoder(work).to(DEVICE), train_tokenizer(seed)
    text_encoder, unet = new_text_encoder(tokenizer), new_unet()
    if start:
        text_encoder.load_state_dict(load_file(start / "text_encoder" / "model.safetensors"))
        unet.load_state_dict(load_file(start / "unet" / "diffusion_pytorch_model.safetensors"))
    text_encoder, unet = text_encoder.to(DEVICE), unet.to(DEVICE, memory_format=torch.channels_last)
    optimiser = Muon([unet, text_encoder], lr)
    run = Run(work / "denoiser-run", {"unet": unet, "text_encoder": text_encoder}, optimiser, decay=0.999)
    if run.step == 0 and not start:
        text_encoder.train()
        print(f"words: loss {teach_words(text_encoder, tokenizer, word_steps, seed):.3f} nats", flush=True)
    views = Views(work, vae, mirror, shift)
    print(f"{len(views.latents)} latents, std {views.latents.std():.3f}", flush=True)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.to(DEVICE)
    predict = torch.compile(unet)
    assembled, recent = time.monotonic(), 0.0
    for step in run.steps(steps, lr, hold=0.65):
        clean, captions, generator = views.batch(batch, seed, step)
        text = text_encoder(tokenise(tokenizer, captions).to(DEVICE)).last_hidden_state
        loss = denoising_loss(predict, clean, text, alphas, generator)
        run.descend(loss)
        recent = loss.item() if recent == 0.0 else 0.98 * recent + 0.02 * loss.item()
        run.log(50, loss=recent)
        if time.monotonic() - assembled > 600:
            assemble(work, run, tokenizer, work / "pipeline")
            assembled = time.monotonic()
    for destination in filter(None, (work / "pipeline", publish)):
        assemble(work, run, tokenizer, destination)


if __name__ == "__main__":
    tyro.cli(main)
