"""Train the autoencoder: 64 px pictures to 16 x 16 x 4 latents and back.

python -m recipes.emoji.autoencoder --work build/emoji
python -m recipes.emoji.autoencoder --steps 20          # a look, in seconds
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL
from einops import rearrange
from PIL import Image
from torch import Tensor

from recipes.emoji.data import background_colours, load_drawings, place
from recipes.emoji.training import DEVICE, Run, step_generator

KL_WEIGHT = 3e-4
"""Weight of the mean KL divergence per latent number: keeps latents near unit scale and smooth to decode."""


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder of the canvas: 0.65 M weights."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # a posterior that starts as wide as the prior drowns the picture and training stalls there
        vae.quant_conv.weight[4:].zero_()
        vae.quant_conv.bias[4:].fill_(-6)
    return vae


def draw(drawings: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Random pictures (batch 3 64 64): any drawing, any background, any shift."""

    def pick(high: int) -> Tensor:
        return torch.randint(high, (batch,), generator=generator)

    objects, styles = drawings.shape[:2]
    colours = background_colours()
    # Half the pictures are white, as in the prompts; the rest have any colour at all, so that none is special.
    any_colour = torch.rand(batch, 3, generator=generator)
    named = colours[pick(len(colours))]
    choice = torch.rand(batch, 1, generator=generator)
    colour = torch.where(choice < 0.5, torch.ones(3), torch.where(choice < 0.8, named, any_colour))
    rgba = drawings[pick(objects), pick(styles)]
    return place(rgba, colour, pick(9), pick(9), pick(2).bool())


def loss_of(vae: AutoencoderKL, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Training loss and mean squared error; pictures in −1..1, `noise` (batch 4 16 16) samples the posterior."""
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    difference = decoded - pictures
    mse = difference.square().mean()
    # Edges matter more than areas in flat drawings: the finite differences of the error are penalised too.
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return difference.abs().mean() + mse + 0.5 * edges + KL_WEIGHT * kl, mse


def save_sheet(vae: AutoencoderKL, pictures: Tensor, path: Path) -> None:
    """Pictures above their reconstructions."""
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    both = torch.stack([pictures, decoded.clamp(-1, 1)])
    sheet = rearrange(both, "two (rows columns) rgb h w -> (rows two h) (columns w) rgb", columns=16)
    Image.fromarray(((sheet.cpu() + 1) * 127.5).round().byte().numpy()).save(path)


def main(
    work: Path = Path("build/emoji"), steps: int = 2800, batch: int = 16, lr: float = 1.5e-3, seed: int = 0
) -> None:
    """Train, or go on training, and write `autoencoder/` (a diffusers folder).

    Args:
        work: folder of the recipe's products.
        steps: optimiser steps in all.
        batch: pictures a step.
        lr: AdamW's learning rate before its cosine tail.
        seed: of the initial weights and of every batch.
    """
    torch.manual_seed(seed)
    drawings = load_drawings(work)
    vae = new_autoencoder().to(DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(vae.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    run = Run(work / "autoencoder-run", {"vae": vae}, optimiser, decay=0.995)
    for step in run.steps(steps, lr, hold=0.3):
        generator = step_generator(seed, step)
        pictures = draw(drawings, batch, generator).to(DEVICE, memory_format=torch.channels_last)
        # Not compiled: torch 2.13's inductor returns wrong gradients for this model on the CPU (right ones for the UNet).
        loss, mse = loss_of(vae, pictures, torch.randn(batch, 4, 16, 16, generator=generator).to(DEVICE))
        run.descend(loss)
        run.log(50, loss=loss.item(), psnr=-10 * math.log10(mse.item() / 4))
    run.load_averaged()
    pictures = draw(drawings, 64, step_generator(seed, -1)).to(DEVICE)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
        mse = F.mse_loss(vae.decode(latents).sample.clamp(-1, 1), pictures)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    vae.save_pretrained(work / "autoencoder")
    save_sheet(vae, pictures, work / "autoencoder.png")
    print(f"reconstruction {-10 * torch.log10(mse / 4):.2f} dB, scaling factor {vae.config['scaling_factor']:.4f}")


if __name__ == "__main__":
    tyro.cli(main)
