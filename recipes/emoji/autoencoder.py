"""Train the autoencoder: 96 px pictures to 12 x 12 x 16 latents and back.

python -m recipes.emoji.autoencoder
python -m recipes.emoji.autoencoder --steps 20
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.emoji.compose import CELL, Composer
from recipes.emoji.muon import Muon
from recipes.emoji.places import SIDE
from recipes.emoji.training import DEVICE, Half, Run, replace_folder, stage, step_generator

CHANNELS = 16
CELLS = SIDE // CELL
KL_WEIGHT = 3e-4
"""Weight of the mean KL divergence per latent number: keeps latents near unit scale and smooth to decode."""


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 112),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # a posterior that starts as wide as the prior drowns the picture and training stalls there
        vae.quant_conv.weight[CHANNELS:].zero_()
        vae.quant_conv.bias[CHANNELS:].fill_(-6)
    return vae


class Passage(nn.Module):
    """Pictures through the autoencoder, there and back.

    Args:
        vae: the autoencoder.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log variance of the latents (batch 16 12 12), and the pictures decoded from a sample."""
        posterior = self.vae.encode(pictures).latent_dist
        return posterior.mean, posterior.logvar, self.vae.decode(posterior.mean + posterior.std * noise).sample


def loss_of(passage: nn.Module, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Training loss and mean squared error; pictures in −1..1, `noise` (batch 16 12 12) samples the posterior."""
    mean, logvar, decoded = (t.float() for t in passage(pictures, noise))
    difference = decoded.float() - pictures
    mse = difference.square().mean()
    # Edges matter more than areas in flat drawings: the finite differences of the error are penalised too.
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return difference.abs().mean() + mse + 0.5 * edges + KL_WEIGHT * kl, mse


def save_sheet(pictures: Tensor, path: Path, columns: int = 16) -> None:
    """Pictures (count 3 96 96) in −1..1 as rows of `columns`."""
    rows = pictures[: len(pictures) // columns * columns].unflatten(0, (-1, columns))
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    Image.fromarray(((sheet.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte().numpy()).save(path)


def main() -> None:
    """Train, or go on training, and write `autoencoder/` (a diffusers folder)."""
    options = stage(
        __doc__ or "", steps=8000, batch=96, lr=2e-3, seed=0, seconds=None, processes=2, variants=300, start=""
    )
    torch.manual_seed(options.seed)
    composer = Composer(options.work, DEVICE, options.variants, options.processes)
    vae = new_autoencoder().to(DEVICE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M weights", flush=True)
    if options.start:
        vae.load_state_dict(load_file(Path(options.start) / "diffusion_pytorch_model.safetensors"))
    optimiser = Muon([vae], options.lr, weight_decay=1e-4)
    passage = Half(Passage(vae))
    run = Run(options.work / "autoencoder-run", {"vae": vae}, optimiser, decay=0.995)
    for step in run.steps(options.steps, options.lr, hold=0.4, seconds=options.seconds):
        pictures = composer(composer.scenes(random.Random(step), options.batch))
        noise = torch.randn(options.batch, CHANNELS, CELLS, CELLS, generator=step_generator(options.seed, step))
        loss, mse = loss_of(passage, pictures.contiguous(memory_format=torch.channels_last), noise.to(DEVICE))
        run.descend(loss)
        run.log(100, loss=loss.item(), psnr=-10 * math.log10(mse.item() / 4))
    run.load_averaged()
    pictures = composer(composer.scenes(random.Random(-1), 256))
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    vae.save_pretrained(options.work / "autoencoder.partial")
    replace_folder(options.work / "autoencoder.partial", options.work / "autoencoder")
    both = torch.stack([pictures[:64].unflatten(0, (4, 16)), decoded[:64].unflatten(0, (4, 16))], 1).flatten(0, 2)
    save_sheet(both, options.work / "autoencoder.png")
    psnr = -10 * math.log10(F.mse_loss(decoded, pictures).item() / 4)
    print(f"reconstruction {psnr:.2f} dB, scaling factor {vae.config['scaling_factor']:.4f}, "
          f"channels' spread {[round(s, 2) for s in (latents.std((0, 2, 3)) * vae.config['scaling_factor']).tolist()]}")  # fmt: skip


if __name__ == "__main__":
    main()
