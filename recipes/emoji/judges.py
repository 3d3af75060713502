"""Train the judge on composed drawings and their reconstructions, never on a generated picture.

python -m recipes.emoji.judges
python -m recipes.emoji.judges --steps 20 --batch 16
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from recipes.emoji.autoencoder import CELLS
from recipes.emoji.bank import latents_of, load_autoencoder
from recipes.emoji.compose import CELL, SIZES, Composer, pack, sample_scene
from recipes.emoji.judge_net import JudgeNet, Seen, Verdict, verdict
from recipes.emoji.places import SIDE
from recipes.emoji.training import DEVICE, Half, Run, autocast, stage, step_generator, time_left, wait_for
from recipes.emoji.words import GROUNDS, OBJECTS, PLACES, STYLES

LABELS = [*(p.name for p in PLACES), *(f"plain {g}" for g in GROUNDS)]
"""What the place may be."""
DEBRIS = 0.2
"""Share of the pictures that are torn, smeared, mixed or noise, whole or in one object's box."""


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise, each a little (batch 3 96 96)."""
    count, options = len(pictures), {"generator": generator, "device": pictures.device}
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(count, 1, 1, 1, **options) * (torch.rand(count, 1, 1, 1, **options) < 0.5)
    pictures = torch.lerp(pictures, blurred, amount)
    noise = torch.randn(pictures.shape, **options) * 0.06 * torch.rand(count, 1, 1, 1, **options)
    return (pictures + noise).clamp(-1, 1)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The autoencoder's own blur, of latents disturbed a little (batch 3 96 96)."""
    options = {"generator": generator, "device": pictures.device}
    latents = latents_of(vae, pictures)
    latents = latents + 0.3 * torch.rand(len(latents), 1, 1, 1, **options) * torch.randn(latents.shape, **options)
    with autocast():
        decoded = vae.decode(latents / vae.config["scaling_factor"]).sample
    return decoded.float().clamp(-1, 1)


def boxes_of(packed: dict[str, Tensor]) -> Tensor:
    """Mask of the first object's box (batch 1 96 96), a quarter larger; the whole picture where there is none."""
    side = torch.tensor(SIZES, device=packed["style"].device)[packed["size"][:, 0]][:, None]
    axis = torch.arange(SIDE, device=side.device)[None]
    margin = side // 8

    def within(start: Tensor) -> Tensor:
        return (axis >= start[:, None] - margin) & (axis < start[:, None] + side + margin)

    box = within(packed["row"][:, 0])[:, :, None] & within(packed["column"][:, 0])[:, None]
    return (box | (packed["thing"][:, :1, None] < 0))[:, None]


def wreck(pictures: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
    """What a failed erasure may leave: noise, smears, torn pictures and double exposures, whole or in the box."""
    count, options = len(pictures), {"generator": generator, "device": pictures.device}

    def pick(share: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, **options) < share

    noise = torch.randn(pictures.shape, **options).clamp(-1, 1)
    smooth = F.interpolate(torch.randn(count, 3, 8, 8, **options), size=SIDE, mode="bicubic").clamp(-1, 1)
    tiles = pictures.unflatten(2, (8, 12)).unflatten(4, (8, 12)).transpose(3, 4).flatten(2, 3)
    order = torch.rand(count, 64, **options).argsort(1)[:, None, :, None, None]
    torn = tiles.gather(2, order.expand_as(tiles)).unflatten(2, (8, 8)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    smeared = F.interpolate(F.adaptive_avg_pool2d(pictures, 9), size=SIDE, mode="bicubic").clamp(-1, 1)
    double = (pictures + pictures.flip(0).flip(3)) / 2
    kinds = torch.stack([torn, smeared, double, smooth, noise])
    index = torch.arange(count, device=pictures.device)
    kind = torch.multinomial(torch.tensor([3.0, 3, 3, 2, 1], device=pictures.device), count, True, generator=generator)
    damage = kinds[kind, index]
    return torch.where(boxes | pick(0.3), damage, pictures)


class Targets(NamedTuple):
    """What the network should say."""

    objects: Tensor
    """(batch objects 12 12): 1 near an object's centre, 0 elsewhere."""
    counted: Tensor
    """Which of these numbers count (batch objects 12 12): not those in an object's outer part."""
    drawing: Tensor
    """(batch 12 12): object times styles plus style at the centre's cell, −100 elsewhere."""


def targets_of(packed: dict[str, Tensor]) -> Targets:
    """The cells of the objects."""
    device, batch = packed["style"].device, len(packed["style"])
    objects = torch.zeros(batch, len(OBJECTS), CELLS, CELLS, device=device)
    ignored = torch.zeros_like(objects)
    drawing = torch.full((batch, CELLS, CELLS), -100, device=device)
    axis, sizes = torch.arange(CELLS, device=device) * CELL + CELL / 2, torch.tensor(SIZES, device=device)
    index = torch.arange(batch, device=device)
    for i in range(2):
        there, thing = packed["thing"][:, i] >= 0, packed["thing"][:, i].clamp(min=0)
        half = sizes[packed["size"][:, i]] / 2
        rows = (axis[None] - (packed["row"][:, i] + half)[:, None]).abs() / half[:, None]
        columns = (axis[None] - (packed["column"][:, i] + half)[:, None]).abs() / half[:, None]
        far = torch.maximum(rows[:, :, None], columns[:, None])
        inner = (far < 0.32) & there[:, None, None]
        objects[index, thing] = torch.maximum(objects[index, thing], inner.float())
        ignored[index, thing] = torch.maximum(ignored[index, thing], ((far < 1) & there[:, None, None]).float())
        drawing = torch.where(inner, (thing * len(STYLES) + packed["style"])[:, None, None], drawing)
    return Targets(objects, (objects > 0) | (ignored == 0), drawing)


class Pupil(nn.Module):
    """The judge, and the extra question that it is taught with: which drawing of all is at this cell?"""

    def __init__(self, sharpness: float = 16.0):
        super().__init__()
        self.judge = JudgeNet(len(OBJECTS), len(STYLES), len(LABELS))
        self.drawings = nn.Parameter(torch.randn(len(OBJECTS) * len(STYLES), self.judge.styles.in_channels))
        self.sharpness = sharpness

    def forward(self, pictures: Tensor, packed: dict[str, Tensor], wrecked: Tensor) -> dict[str, Tensor]:
        """Losses of objects, styles, drawings, places and debris; things are not asked for where the picture is debris."""
        seen = Seen(*(t.float() for t in Half(self.judge)(pictures)))
        targets, whole = targets_of(packed), ~wrecked
        wrong = (seen.objects.sigmoid() - targets.objects).abs()
        cross = F.binary_cross_entropy_with_logits(seen.objects, targets.objects, reduction="none") * wrong.square()
        counted = targets.counted & whole[:, None, None, None]
        positives = (targets.objects * counted).sum().clamp(min=1)
        drawing = torch.where(whole[:, None, None], targets.drawing, -100).flatten()
        at = drawing >= 0
        cosines = seen.features.permute(0, 2, 3, 1).flatten(0, 2)[at] @ F.normalize(self.drawings, dim=1).T
        styles = seen.styles.permute(0, 2, 3, 1).flatten(0, 2)[at]
        place = torch.where(packed["place"] >= 0, packed["place"], len(PLACES) + packed["ground"])
        return {
            "objects": 4 * (cross * counted).sum() / positives,
            "style": F.cross_entropy(styles, drawing[at] % len(STYLES)),
            "drawing": F.cross_entropy(self.sharpness * cosines, drawing[at]),
            "place": F.cross_entropy(seen.places[whole], place[whole]),
            "debris": F.binary_cross_entropy_with_logits(seen.debris, wrecked.float()),
        }


def batch_of(
    composer: Composer, vae: AutoencoderKL, count: int, rng: random.Random, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Pictures of one training step, what they show, and which of them are debris."""
    packed = composer.scenes(rng, count)
    pictures = composer(packed)
    half = count // 2
    pictures = torch.cat([pictures[:half], reconstruct(vae, pictures[half:], generator)])
    wrecked = torch.rand(count, generator=generator, device=pictures.device) < DEBRIS
    pictures = torch.where(wrecked[:, None, None, None], wreck(pictures, boxes_of(packed), generator), pictures)
    return disturb(pictures, generator), packed, wrecked


@torch.no_grad()
def judge_all(net: JudgeNet, prototypes: Tensor, pictures: Tensor) -> Verdict:
    """Verdicts on many pictures."""
    parts = [verdict(net(batch.to(DEVICE)), prototypes.to(DEVICE)) for batch in pictures.split(256)]
    return Verdict(*(torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True)))


def main() -> None:
    """Train, calibrate and measure, and write `judges/`."""
    options = stage(
        __doc__ or "",
        steps=4000,
        batch=192,
        lr=2e-3,
        seed=0,
        seconds=None,
        until=0.0,
        processes=2,
        variants=300,
        publish="",
        checked=4096,
    )
    torch.manual_seed(options.seed)
    composer = Composer(options.work, DEVICE, options.variants, options.processes)
    wait_for(options.work / "autoencoder" / "config.json")
    vae = load_autoencoder(options.work)
    pupil = Pupil().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    print(f"{sum(p.numel() for p in pupil.judge.parameters()) / 1e6:.2f} M weights", flush=True)
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=options.lr, weight_decay=0.05)
    run = Run(options.work / "judges-run", {"pupil": pupil}, optimiser, decay=0.998)
    for step in run.steps(options.steps, options.lr, hold=0.3, seconds=time_left(options)):
        generator = step_generator(options.seed, step, DEVICE)
        pictures, packed, wrecked = batch_of(composer, vae, options.batch, random.Random(step), generator)
        losses = pupil(pictures.contiguous(memory_format=torch.channels_last), packed, wrecked)
        run.descend(torch.stack(list(losses.values())).sum())
        if step % 100 == 0:
            run.log(100, **{name: loss.item() for name, loss in losses.items()})
    run.load_averaged()
    figures = calibrate(pupil.judge.eval(), composer, vae, options.work / "judges", options.checked)
    if options.publish:
        shutil.copytree(options.work / "judges", options.publish, dirs_exist_ok=True)
    print(json.dumps(figures, indent=1), flush=True)


def calibrate(net: JudgeNet, composer: Composer, vae: AutoencoderKL, folder: Path, count: int) -> dict[str, float]:
    """Prototypes of drawings, thresholds, and accuracies on compositions never trained on; writes the judge's file."""
    rng, generator = random.Random(-7), step_generator(99, 0, DEVICE)
    prototypes = _prototypes(net, composer, vae, rng, generator, views=max(1, count // 170))
    packed = composer.to_device(pack([sample_scene(rng, composer.variants) for _ in range(count)]))
    real = torch.cat([composer({k: v[i] for k, v in packed.items()}).cpu() for i in torch.arange(count).split(256)])
    blurred = torch.cat([reconstruct(vae, part.to(DEVICE), generator).cpu() for part in real.split(256)])
    boxes = boxes_of(packed).cpu()
    broken = torch.cat([
        wreck(p.to(DEVICE), b.to(DEVICE), generator).cpu()
        for p, b in zip(blurred.split(256), boxes.split(256), strict=True)
    ])  # fmt: skip
    packed = {k: v.cpu() for k, v in packed.items()}
    verdicts = {name: judge_all(net, prototypes, x) for name, x in (("real", real), ("reconstructed", blurred))}
    there, absent = _present(packed)
    calibration, test = torch.arange(count) < count // 2, torch.arange(count) >= count // 2
    threshold = _best_threshold(
        verdicts["reconstructed"].presence[calibration], there[calibration], absent[calibration]
    )
    occupied = there.any(1)
    reference = verdicts["reconstructed"]
    limits = {
        "presence": threshold,
        "debris": float(reference.debris[calibration].quantile(0.997)),
        "likeness": float(reference.likeness[calibration & occupied].quantile(0.003)),
    }
    place = torch.where(packed["place"] >= 0, packed["place"], len(PLACES) + packed["ground"])
    figures: dict[str, float] = {}
    for name, v in verdicts.items():
        figures[f"presence_{name}"] = balanced(v.presence[test], there[test], absent[test], threshold)
        figures[f"style_{name}"] = (v.style == packed["style"])[test & occupied].float().mean().item()
        figures[f"place_{name}"] = (v.place == place)[test].float().mean().item()
        figures[f"intact_{name}"] = intact(v, limits)[test].float().mean().item()
    figures["debris_refused"] = 1 - intact(judge_all(net, prototypes, broken), limits).float().mean().item()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: t.half().cpu().contiguous() for k, t in net.state_dict().items()}
    save_file(tensors | {"prototypes": prototypes.half().cpu()}, folder / "judge.safetensors")
    (folder / "judges.json").write_text(json.dumps(described(limits, figures), indent=1) + "\n")
    return figures


def described(limits: dict[str, float], figures: dict[str, float]) -> dict[str, dict]:
    """What `judges.json` says, in the package's form: an entry for objects, styles and places each."""
    classes = {"object": [o.name for o in OBJECTS], "style": list(STYLES), "place": LABELS}
    entries: dict[str, dict] = {
        what: {"name": f"canvas-{what}", "version": "3", "classes": names} for what, names in classes.items()
    }
    entries["object"] |= {"limits": limits, "figures": {name: round(value, 5) for name, value in figures.items()}}
    return entries


@torch.no_grad()
def _prototypes(
    net: JudgeNet, composer: Composer, vae: AutoencoderKL, rng: random.Random, generator: torch.Generator, views: int
) -> Tensor:
    """Mean feature of every drawing's centre (drawings width), over so many reconstructed pictures of each."""
    count = len(OBJECTS) * len(STYLES)
    sums = torch.zeros(count, net.styles.in_channels, device=DEVICE)
    for _ in range(views):
        for index in torch.arange(count).split(192):
            scenes = []
            for i in index.tolist():
                scene = sample_scene(rng, composer.variants)
                while len(scene.items) != 1:
                    scene = sample_scene(rng, composer.variants)
                item = scene.items[0]._replace(thing=i // len(STYLES))
                scenes.append(scene._replace(items=(item,), style=i % len(STYLES)))
            packed = composer.to_device(pack(scenes))
            seen = net(reconstruct(vae, composer(packed), generator))
            inner = (targets_of(packed).drawing >= 0)[:, None]
            sums[index.to(DEVICE)] += (seen.features * inner).sum((2, 3)) / inner.sum((2, 3))
    return F.normalize(sums, dim=1)


def _present(packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which objects are there, and which are not (count objects)."""
    there = torch.zeros(len(packed["style"]), len(OBJECTS), dtype=torch.bool)
    for i in range(2):
        rows = packed["thing"][:, i] >= 0
        there[rows.nonzero()[:, 0], packed["thing"][rows, i]] = True
    return there, ~there


def balanced(presence: Tensor, there: Tensor, absent: Tensor, threshold: float) -> float:
    """Mean of the shares of present things that are seen and of pictures in which nothing absent is seen."""
    seen = presence > threshold
    return 0.5 * (seen[there].float().mean() + (~(seen & absent).any(1)).float().mean()).item()


def _best_threshold(presence: Tensor, there: Tensor, absent: Tensor) -> float:
    grid = [0.05 * k for k in range(2, 19)]
    return max(grid, key=lambda t: (round(balanced(presence, there, absent, t), 4), -abs(t - 0.4)))


def intact(v: Verdict, limits: dict[str, float]) -> Tensor:
    """Whether a picture is whole: no debris, and its likeliest object, if it shows one, like a drawing of it."""
    shows = v.presence.amax(1) > limits["presence"]
    return (v.debris <= limits["debris"]) & (~shows | (v.likeness >= limits["likeness"]))


if __name__ == "__main__":
    main()
