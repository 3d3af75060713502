"""Train the two judges on the real drawings only: which object, which style, and what is no drawing at all.

python -m recipes.emoji.judges --work build/emoji --publish src/efface/canvas/emoji/judges
python -m recipes.emoji.judges --steps 20               # a look, in a minute
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from efface.canvas.words import BACKGROUNDS, OBJECTS, STYLES
from efface.judges.canvas import JudgeNet, nearest
from recipes.emoji.data import background_colours, load_autoencoder, load_drawings, place
from recipes.emoji.training import DEVICE, Run, cosine_tail, step_generator

COUNTS = {"object": len(OBJECTS), "style": len(STYLES)}
POOL = 6
"""Reconstructions of every drawing that training draws from."""


def pictures_of(drawings: Tensor, things: Tensor, styles: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures of given drawings with random background, shift and mirror (batch 3 64 64)."""
    count = len(things)
    colours = background_colours()
    coloured = torch.rand(count, generator=generator) < 0.4
    colour = colours[torch.randint(len(BACKGROUNDS), (count,), generator=generator) * coloured]
    row, column = torch.randint(9, (2, count), generator=generator)
    mirror = torch.rand(count, generator=generator) < 0.5
    return place(drawings[things, styles], colour, row, column, mirror)


def reconstructions(vae: AutoencoderKL, drawings: Tensor, views: int, generator: torch.Generator) -> Tensor:
    """The autoencoder's own blur: every drawing `views` times, encoded, disturbed a little and decoded."""
    things, styles = torch.meshgrid(torch.arange(COUNTS["object"]), torch.arange(COUNTS["style"]), indexing="ij")
    things, styles = things.flatten().repeat(views), styles.flatten().repeat(views)
    made = []
    with torch.no_grad():
        for i in torch.arange(len(things)).split(64):
            latents = vae.encode(pictures_of(drawings, things[i], styles[i], generator).to(DEVICE)).latent_dist.mode()
            noise = torch.randn(latents.shape, generator=generator).to(DEVICE)
            strength = torch.rand(len(i), 1, 1, 1, generator=generator).to(DEVICE) * 0.25 / vae.config["scaling_factor"]
            made.append((vae.decode(latents + strength * noise).sample.clamp(-1, 1) * 127).round().to(torch.int8).cpu())
    return torch.cat(made)


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Scale, blur and noise, each a little (batch 3 64 64)."""
    count = len(pictures)
    scale = 1 + 0.12 * (torch.rand(count, generator=generator) * 2 - 1)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * 0.04
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(count, 1, 1, 1, generator=generator) * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)
    pictures = torch.lerp(pictures, blurred, amount)
    noise = torch.randn(pictures.shape, generator=generator) * 0.06 * torch.rand(count, 1, 1, 1, generator=generator)
    return (pictures + noise).clamp(-1, 1)


def debris(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """What a failed erasure may leave: noise, blanks, torn pictures, smears and double exposures (batch 3 64 64)."""
    count = len(pictures)
    noise = torch.randn(pictures.shape, generator=generator).clamp(-1, 1)
    smooth = F.interpolate(torch.randn(count, 3, 8, 8, generator=generator), size=64, mode="bicubic").clamp(-1, 1)
    blank = (torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1).expand_as(pictures)
    tiles = pictures.unflatten(2, (4, 16)).unflatten(4, (4, 16)).transpose(3, 4).flatten(2, 3)
    order = torch.rand(count, 16, generator=generator).argsort(1)[:, None, :, None, None]
    torn = tiles.gather(2, order.expand_as(tiles)).unflatten(2, (4, 4)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    smeared = F.interpolate(F.adaptive_avg_pool2d(pictures, 6), size=64, mode="bicubic").clamp(-1, 1)
    double = (pictures + pictures.flip(0).flip(2)) / 2
    kinds = torch.stack([noise, smooth, blank, torn, smeared, double])
    return kinds[torch.randint(len(kinds), (count,), generator=generator), torch.arange(count)]


def batch_of(
    drawings: Tensor, pool: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half real pictures, half reconstructions, then one part in eight debris; and the labels of both judges."""
    things = torch.randint(COUNTS["object"], (count,), generator=generator)
    styles = torch.randint(drawings.shape[1], (count,), generator=generator)
    real = pictures_of(drawings, things, styles, generator)
    view = torch.randint(len(pool), (count,), generator=generator)
    blurred = pool[view, things, styles].float() / 127
    pictures = torch.where((torch.rand(count, generator=generator) < 0.5)[:, None, None, None], real, blurred)
    wrecked = torch.arange(count) < count // 8
    pictures = torch.where(wrecked[:, None, None, None], debris(pictures, generator), pictures)
    labels = {
        "object": torch.where(wrecked, COUNTS["object"], things),
        "style": torch.where(wrecked, COUNTS["style"], styles),
    }
    return disturb(pictures, generator), labels


@torch.no_grad()
def features_of(net: JudgeNet, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted classes (without debris) and features."""
    seen = [net(batch.to(DEVICE)) for batch in pictures.split(256)]
    return torch.cat([s.logits[:, :-1].argmax(1).cpu() for s in seen]), torch.cat([s.features.cpu() for s in seen])


def main(
    work: Path = Path("build/emoji"),
    steps: int = 2500,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    leave_out: str | None = None,
    publish: Path | None = None,
) -> None:
    """Train both judges side by side on the same pictures, measure and calibrate them, and write `judges/`.

    Args:
        work: folder of the recipe's products.
        steps: optimiser steps in all.
        batch: pictures a step.
        lr: AdamW's learning rate before its cosine tail.
        seed: of the initial weights and of every batch.
        leave_out: a style never shown: measures how far the object judge generalises; nothing is written.
        publish: also write the judges here.
    """
    torch.manual_seed(seed)
    drawings = load_drawings(work)
    vae = load_autoencoder(work).to(DEVICE)
    generator = step_generator(seed, -1)
    pool = reconstructions(vae, drawings, POOL, generator).unflatten(0, (POOL, COUNTS["object"], COUNTS["style"]))
    shown = [s for s in range(len(STYLES)) if STYLES[s] != leave_out]
    nets = {what: JudgeNet(count).to(DEVICE) for what, count in COUNTS.items()}
    optimiser = torch.optim.AdamW([p for net in nets.values() for p in net.parameters()], lr=lr, weight_decay=0.05)
    run = Run(work / f"judges-run{'-' + leave_out if leave_out else ''}", dict(nets), optimiser, decay=0.995)
    started = time.monotonic()
    for step in run.steps(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine_tail(step, steps, hold=0.3)
        pictures, labels = batch_of(drawings[:, shown], pool[:, :, shown], batch, step_generator(seed, step))
        losses = {w: F.cross_entropy(net(pictures.to(DEVICE)).logits, labels[w].to(DEVICE)) for w, net in nets.items()}
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_([p for net in nets.values() for p in net.parameters()], 1.0)
        optimiser.step()
        if step % 100 == 0:
            run.log(**{w: loss.item() for w, loss in losses.items()}, seconds=time.monotonic() - started)
    run.load_averaged()
    if leave_out:
        style = STYLES.index(leave_out)
        things = torch.arange(COUNTS["object"])
        found, _ = features_of(nets["object"], pictures_of(drawings, things, torch.full_like(things, style), generator))
        print(f"object judge on the unseen style {leave_out}: {(found == things).float().mean():.1%}")
        return
    figures = {what: calibrate(what, net, vae, drawings, work / "judges") for what, net in nets.items()}
    for folder in filter(None, (work / "judges", publish)):
        folder.mkdir(parents=True, exist_ok=True)
        for what in nets:
            (folder / f"{what}.safetensors").write_bytes((work / "judges" / f"{what}.safetensors").read_bytes())
        (folder / "judges.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def calibrate(what: str, net: JudgeNet, vae: AutoencoderKL, drawings: Tensor, folder: Path) -> dict[str, float | str]:
    """Accuracies on unseen augmentations, the threshold of `intact`, and the file of the judge."""
    generator = step_generator(99, 0)
    things, styles = torch.meshgrid(torch.arange(COUNTS["object"]), torch.arange(COUNTS["style"]), indexing="ij")
    truth = {"object": things.flatten(), "style": styles.flatten()}[what].repeat(4)
    things, styles = things.flatten(), styles.flatten()
    real = torch.cat([pictures_of(drawings, things, styles, generator) for _ in range(4)])
    blurred = reconstructions(vae, drawings, 4, generator).float() / 127
    _, prototypes = features_of(net, torch.cat([real[: 2 * len(things)], blurred[: 2 * len(things)]]))
    found_real, _ = features_of(net, disturb(real, generator))
    found_blurred, features = features_of(net, disturb(blurred, generator))
    prototypes = prototypes.half().float()
    distances = nearest(features[2 * len(things) :], prototypes)
    threshold = float(distances.quantile(0.995))
    _, wrecked = features_of(net, debris(real, generator))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.half().contiguous() for name, t in net.state_dict().items()} | {"prototypes": prototypes.half()}
    save_file(tensors, folder / f"{what}.safetensors")
    return {
        "version": "1",
        "threshold": round(threshold, 5),
        "accuracy_augmented": round((found_real == truth).float().mean().item(), 4),
        "accuracy_reconstructed": round((found_blurred == truth).float().mean().item(), 4),
        "debris_refused": round((nearest(wrecked, prototypes) > threshold).float().mean().item(), 4),
    }


if __name__ == "__main__":
    tyro.cli(main)
