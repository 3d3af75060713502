"""Train the vision tower on composed scenes and drawn pictures: every cell of 8 px is asked which object it is of, in which style.

python -m recipes.vlm.tower
python -m recipes.vlm.tower --steps 20 --batch 8 --variants 2

Answers alone teach a tower slowly, since one word is all that a picture then says. LLaVA reads the last layer but one, so
that only the layers up to there are trained; the last has the weights with which it began.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from recipes.emoji.compose import CELL, SIZES, Composer, Scene, pack, sample_scene
from recipes.emoji.judges import disturb
from recipes.emoji.muon import Muon
from recipes.emoji.places import SIDE
from recipes.emoji.training import DEVICE, Run, stage, step_generator
from recipes.emoji.words import BENCHMARK, STYLES
from recipes.vlm import WORK
from recipes.vlm.drawn import drawn

WIDTH = 128
LAYERS = 5
"""Layers of the tower, of which the last is not read."""
NOTHING = len(BENCHMARK)
"""The class of a cell without an object."""
INNER, OUTER = 0.6, 1.0
"""Cells nearer to an object's centre than the first share of its half side are the object's; those further than the second are
not; those between are not asked."""
OUTER_WEIGHTS = ("patch_embedding.weight", "position_embedding.weight", "objects.weight", "styles.weight")
"""Ends of the names of what AdamW trains although it is a matrix."""
PART_DRAWN = 0.5
"""Part of the run after which drawn pictures stand beside composed ones."""


def scene(rng: random.Random, variants: int) -> Scene:
    """A random scene of the benchmark's objects."""
    found = sample_scene(rng, variants)
    things = rng.sample(range(len(BENCHMARK)), len(found.items))
    return found._replace(
        items=tuple(item._replace(thing=thing) for item, thing in zip(found.items, things, strict=True))
    )


def new_tower() -> CLIPVisionModel:
    """A tower with random weights."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 32,
        image_size=SIDE,
        patch_size=CELL,
    )
    return CLIPVisionModel(config)


class Pupil(nn.Module):
    """The tower up to the layer that is read, and two questions about every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = new_tower()
        self.objects = nn.Linear(WIDTH, len(BENCHMARK) + 1)
        self.styles = nn.Linear(WIDTH, len(STYLES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of objects and of styles (batch cells classes) of pictures in −1..1."""
        cells = read(self.tower, pictures)[:, 1:]
        return self.objects(cells), self.styles(cells)


def read(tower: CLIPVisionModel, pictures: Tensor) -> Tensor:
    """What LLaVA reads (batch tokens width), the class token first; the last layer is not computed."""
    states = tower.pre_layrnorm(tower.embeddings(pictures))
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, attention_mask=None)
    return states


def cells_of(packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Object and style of every cell (batch cells), −100 where it is not asked."""
    batch, cells = len(packed["style"]), SIDE // CELL
    objects = torch.full((batch, cells, cells), NOTHING)
    styles = torch.full((batch, cells, cells), -100)
    axis, sizes = torch.arange(cells) * CELL + CELL / 2, torch.tensor(SIZES)
    for i in range(2):
        half = sizes[packed["size"][:, i]] / 2
        rows = (axis[None] - (packed["row"][:, i] + half)[:, None]).abs() / half[:, None]
        columns = (axis[None] - (packed["column"][:, i] + half)[:, None]).abs() / half[:, None]
        far = torch.maximum(rows[:, :, None], columns[:, None])
        there = (packed["thing"][:, i] >= 0)[:, None, None]
        inner = (far < INNER) & there
        objects = torch.where((far < OUTER) & there & ~inner & (objects == NOTHING), -100, objects)
        objects = torch.where(inner, packed["thing"][:, i][:, None, None], objects)
        styles = torch.where(inner, packed["style"][:, None, None], styles)
    return objects.flatten(1), styles.flatten(1)


def composed_losses(pupil: Pupil, pictures: Tensor, packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean losses of cells of an object, of cells of none, and of styles."""
    wanted, hand = cells_of(packed)
    objects, styles = (logits.flatten(0, 1) for logits in pupil(pictures))
    cross = F.cross_entropy(objects, wanted.flatten(), ignore_index=-100, reduction="none")
    inside, empty = (hand >= 0).flatten(), (wanted == NOTHING).flatten()
    return {
        "object": cross[inside].mean(),
        "empty": cross[empty].mean(),
        "style": F.cross_entropy(styles[inside], hand.flatten()[inside]),
        "right": (objects.argmax(1) == wanted.flatten())[inside].float().mean(),
    }


def drawn_losses(pupil: Pupil, pictures: Tensor, thing: Tensor, style: Tensor) -> dict[str, Tensor]:
    """Losses of what a whole picture shows, by the sum of its cells' odds; the cells that show it say the style."""
    objects, styles = pupil(pictures)
    index = torch.arange(len(thing))
    whole = objects[..., :NOTHING].logsumexp(1)
    weights = objects[index, :, thing].detach().softmax(1)
    said = torch.einsum("bc,bcs->bs", weights, styles.log_softmax(2))
    return {
        "drawn": F.cross_entropy(whole, thing),
        "drawn_style": F.nll_loss(said, style),
        "drawn_right": (whole.argmax(1) == thing).float().mean(),
    }


class Drawn:
    """Batches of drawn pictures on which the judge saw what was asked for.

    Args:
        work: folder of the recipe's products.
    """

    def __init__(self, work: Path):
        made = drawn(work, "train")
        kept = made["named"] & made["styled"]
        self.pixels, self.thing, self.style = (made[name][kept] for name in ("pixels", "thing", "style"))

    def batch(self, rng: random.Random, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures in −1..1, moved by a few pixels and half of them mirrored, with what they show."""
        index = torch.tensor(rng.choices(range(len(self.thing)), k=size))
        pictures = self.pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.stack([moved(p, rng) for p in pictures]), self.thing[index], self.style[index]


def moved(picture: Tensor, rng: random.Random) -> Tensor:
    """A picture (3 96 96) moved by whole cells at most one, and mirrored or not."""
    down, right = (CELL * rng.randint(-1, 1) for _ in range(2))
    padded = F.pad(picture[None], (CELL, CELL, CELL, CELL), mode="replicate")[0]
    shifted = padded[:, CELL + down : CELL + down + SIDE, CELL + right : CELL + right + SIDE]
    return shifted.flip(2) if rng.random() < 0.5 else shifted


def main() -> None:
    """Write `tower/` with the averaged weights."""
    options = stage(
        __doc__ or "", work=WORK, steps=1200, batch=32, lr=2e-3, seed=0, variants=40, processes=1, seconds=None
    )
    torch.manual_seed(options.seed)
    composer = Composer(options.work, DEVICE, options.variants, options.processes)
    pupil = Pupil()
    optimiser = Muon([pupil], options.lr, outer=OUTER_WEIGHTS)
    run = Run(options.work / "tower-run", {"pupil": pupil}, optimiser, decay=0.995)
    beside: Drawn | None = None
    for step in run.steps(options.steps, options.lr, hold=0.4, seconds=options.seconds):
        rng, generator = random.Random(options.seed * 1_000_003 + step), step_generator(options.seed, step)
        share = 4 if step >= PART_DRAWN * options.steps else 0
        if share and beside is None:
            beside = Drawn(options.work)
        few = options.batch // share if share else 0
        packed = composer.to_device(pack([scene(rng, options.variants) for _ in range(options.batch - few)]))
        figures = composed_losses(pupil, disturb(composer(packed), generator), packed)
        loss = figures["object"] + 0.5 * figures["empty"] + figures["style"]
        if beside is not None:
            also = drawn_losses(pupil, *beside.batch(rng, few))
            loss, figures = loss + 0.5 * (also["drawn"] + also["drawn_style"]), figures | also
        run.descend(loss)
        run.log(25, **{name: figure.item() for name, figure in figures.items()})
    run.load_averaged()
    pupil.tower.save_pretrained(options.work / "tower")


if __name__ == "__main__":
    main()
