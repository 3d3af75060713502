"""Train the two judges on the real drawings only: which object, which style, and what is no drawing at all.

python -m recipes.emoji.judges --work build/emoji --publish src/efface/embedded/emoji/judges
python -m recipes.emoji.judges --steps 20               # a look, in a minute
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from efface.judges.embedded import Features, JudgeNet, nearest
from efface.profiles.emoji.words import BACKGROUNDS, OBJECTS, STYLES
from recipes.emoji.data import background_colours, load_autoencoder, load_drawings, place
from recipes.emoji.training import DEVICE, Run, step_generator

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


class Batch(NamedTuple):
    """Pictures of one training step and what they show."""

    pictures: Tensor
    """(batch 3 64 64) in −1..1."""
    labels: dict[str, Tensor]
    """Class of each judge (batch,); the last class is debris."""
    drawing: Tensor
    """Which drawing of all (batch,); −100, which the loss passes over, where the picture is debris."""


def batch_of(drawings: Tensor, pool: Tensor, count: int, generator: torch.Generator) -> Batch:
    """Half real pictures, half reconstructions, then one part in eight debris."""
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
    drawing = torch.where(wrecked, -100, things * drawings.shape[1] + styles)
    return Batch(disturb(pictures, generator), labels, drawing)


class Pupil(nn.Module):
    """A judge and the extra question that it is taught with: which drawing of all is this?

    Few classes over many drawings teach slowly, since styles differ by small things; telling every drawing from every
    other does. The cosines with one vector a drawing are also what `intact` later measures. Only the judge is kept.
    """

    def __init__(self, classes: int, drawings: int, width: int = 192, sharpness: float = 16.0):
        super().__init__()
        self.judge = JudgeNet(classes)
        self.drawings = nn.Parameter(torch.randn(drawings, width))
        self.sharpness = sharpness

    def loss(self, pictures: Tensor, label: Tensor, drawing: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies in nats: of the judge's class, and of the drawing."""
        seen = self.judge(pictures)
        cosines = seen.features @ F.normalize(self.drawings, dim=1).T
        return F.cross_entropy(seen.logits, label), F.cross_entropy(self.sharpness * cosines, drawing)


@torch.no_grad()
def seen_by(net: JudgeNet, pictures: Tensor) -> Features:
    """Logits and features of many pictures."""
    seen = [net(batch.to(DEVICE)) for batch in pictures.split(256)]
    return Features(torch.cat([s.logits.cpu() for s in seen]), torch.cat([s.features.cpu() for s in seen]))


def train(
    what: str, drawings: Tensor, pool: Tensor, folder: Path, steps: int, batch: int, lr: float, seed: int
) -> JudgeNet:
    """Train one judge, or go on with it, in `folder`; returns it with averaged weights."""
    torch.manual_seed(seed)
    pupil = Pupil(COUNTS[what], drawings.shape[0] * drawings.shape[1]).to(DEVICE, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=lr, weight_decay=0.05)
    run = Run(folder, {"pupil": pupil}, optimiser, decay=0.995)
    for step in run.steps(steps, lr, hold=0.3):
        shown = batch_of(drawings, pool, batch, step_generator(seed, step))
        pictures = shown.pictures.to(DEVICE, memory_format=torch.channels_last)
        own, extra = pupil.loss(pictures, shown.labels[what].to(DEVICE), shown.drawing.to(DEVICE))
        run.descend(own + extra)
        run.log(100, **{what: own.item(), "drawing": extra.item()})
    run.load_averaged()
    return pupil.judge


def main(
    work: Path = Path("build/emoji"),
    steps: int = 2500,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    leave_out: str | None = None,
    publish: Path | None = None,
) -> None:
    """Train both judges on the same pictures, measure and calibrate them, and write `judges/`.

    Args:
        work: folder of the recipe's products.
        steps: optimiser steps of each judge.
        batch: pictures a step.
        lr: AdamW's learning rate before its cosine tail.
        seed: of the initial weights and of every batch.
        leave_out: a style never shown: measures how far the object judge generalises; nothing is written.
        publish: also write the judges here.
    """
    drawings = load_drawings(work)
    vae = load_autoencoder(work).to(DEVICE)
    generator = step_generator(seed, -1)
    pool = reconstructions(vae, drawings, POOL, generator).unflatten(0, (POOL, COUNTS["object"], COUNTS["style"]))
    if leave_out:
        shown = [s for s in range(len(STYLES)) if STYLES[s] != leave_out]
        folder = work / f"judges-run-without-{leave_out}"
        judge = train("object", drawings[:, shown], pool[:, :, shown], folder, steps, batch, lr, seed)
        things = torch.arange(COUNTS["object"])
        unseen = torch.full_like(things, STYLES.index(leave_out))
        right = share_right(seen_by(judge, pictures_of(drawings, things, unseen, generator)), things)
        print(f"object judge on the unseen style {leave_out}: {right:.1%}")
        return
    figures = {}
    for what in COUNTS:
        judge = train(what, drawings, pool, work / "judges-run" / what, steps, batch, lr, seed)
        figures[what] = calibrate(what, judge, vae, drawings, work / "judges")
    (work / "judges" / "judges.json").write_text(json.dumps(figures, indent=1) + "\n")
    if publish:
        shutil.copytree(work / "judges", publish, dirs_exist_ok=True)
    print(json.dumps(figures, indent=1))


def calibrate(what: str, net: JudgeNet, vae: AutoencoderKL, drawings: Tensor, folder: Path) -> dict[str, Any]:
    """Accuracies on unseen augmentations, the threshold of `intact`, and the file of the judge."""
    generator = step_generator(99, 0)
    things, styles = torch.meshgrid(torch.arange(COUNTS["object"]), torch.arange(COUNTS["style"]), indexing="ij")
    truth = {"object": things.flatten(), "style": styles.flatten()}[what].repeat(4)
    things, styles = things.flatten(), styles.flatten()
    real = torch.cat([pictures_of(drawings, things, styles, generator) for _ in range(4)])
    blurred = reconstructions(vae, drawings, 4, generator).float() / 127
    known = seen_by(net, torch.cat([real[: 2 * len(things)], blurred[: 2 * len(things)]]))
    prototypes = known.features.half()
    seen_real, seen_blurred = seen_by(net, disturb(real, generator)), seen_by(net, disturb(blurred, generator))
    unknown = nearest(seen_blurred.features[2 * len(things) :], prototypes.float())
    threshold = float(unknown.quantile(0.995))
    wrecked = seen_by(net, debris(real, generator))
    refused = nearest(wrecked.features, prototypes.float()) > threshold
    refused |= wrecked.logits.argmax(1) == COUNTS[what]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.half().contiguous() for name, t in net.state_dict().items()} | {"prototypes": prototypes}
    save_file(tensors, folder / f"{what}.safetensors")
    return {
        "name": f"canvas-{what}",
        "version": "2",
        "threshold": round(threshold, 5),
        "accuracy_augmented": round(share_right(seen_real, truth), 4),
        "accuracy_reconstructed": round(share_right(seen_blurred, truth), 4),
        "debris_refused": round(refused.float().mean().item(), 4),
        "classes": {"object": [thing.name for thing in OBJECTS], "style": list(STYLES)}[what],
    }


def share_right(seen: Features, truth: Tensor) -> float:
    """Share of pictures whose likeliest class, debris aside, is the true one."""
    return (seen.logits[:, :-1].argmax(1) == truth).float().mean().item()


if __name__ == "__main__":
    tyro.cli(main)
