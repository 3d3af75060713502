"""Figures and sheets of the finished model.

python -m recipes.emoji.check
python -m recipes.emoji.check --quick 1 --pipeline build/emoji/pipeline
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from recipes.emoji.autoencoder import save_sheet
from recipes.emoji.judge_net import JudgeNet, Verdict
from recipes.emoji.judges import intact, judge_all
from recipes.emoji.places import SIDE
from recipes.emoji.training import DEVICE, stage
from recipes.emoji.words import OBJECTS, PLACES, STYLES, article

STEPS, GUIDANCE = 12, 4.5
"""The standard solver's steps; guidance at which pictures of objects outside the benchmark show most of what they should."""


class Prompt(NamedTuple):
    """A prompt, its seed, and what its picture should show."""

    text: str
    seed: int
    things: tuple[int, ...] = ()
    style: int = -1
    place: int = -1


class Judge(NamedTuple):
    """The trained judge with its limits."""

    net: JudgeNet
    prototypes: Tensor
    limits: dict

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """From `judges/`."""
        said, tensors = json.loads((folder / "judges.json").read_text()), load_file(folder / "judge.safetensors")
        prototypes = tensors.pop("prototypes").float()
        net = JudgeNet(*(len(said[what]["classes"]) for what in ("object", "style", "place")))
        net.load_state_dict({k: v.float() for k, v in tensors.items()})
        return cls(net.to(DEVICE).eval(), prototypes, said["object"]["limits"])

    def __call__(self, pictures: Tensor) -> Verdict:
        """Verdicts on pictures (batch 3 96 96) in −1..1."""
        return judge_all(self.net, self.prototypes, pictures)


@torch.no_grad()
def draw(pipe: StableDiffusionPipeline, prompts: list[Prompt], steps: int = STEPS, batch: int = 0) -> Tensor:
    """Pictures (count 3 96 96) in −1..1, in eight bits."""
    parts = []
    batch = batch or (256 if DEVICE.type == "cuda" else 16)
    for i in range(0, len(prompts), batch):
        part = prompts[i : i + batch]
        generators = [torch.Generator().manual_seed(p.seed) for p in part]
        images = pipe(
            [p.text for p in part], num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators, output_type="pt"
        ).images  # fmt: skip
        parts.append((images.float().cpu() * 255).round() / 127.5 - 1)
    return torch.cat(parts)


def named(thing: int, style: int, seed: int, noun: str | None = None, place: str = "") -> Prompt:
    """A prompt of one object by its name, or by `noun`."""
    text = f"{noun or article(OBJECTS[thing].name)} in {STYLES[style]} style"
    return Prompt(f"{text} {place}".strip(), seed, (thing,), style)


def heldout(kind: str, seeds: int) -> list[Prompt]:
    """Prompts of the benchmark's objects by held-out synonyms or descriptions, each style by another one of them."""
    prompts = []
    for o in range(20):
        words = getattr(OBJECTS[o], f"heldout_{kind}")
        for s in range(len(STYLES)):
            for seed in range(seeds):
                word = words[(s * seeds + seed) % len(words)]
                prompts.append(named(o, s, 1000 + seed, article(word) if kind == "synonyms" else word))
    return prompts


def pairs(count: int) -> list[Prompt]:
    """Prompts of two objects in a place: the first of the benchmark, the second any."""
    rng, prompts = random.Random(5), []
    for k in range(count):
        first, second = rng.randrange(20), rng.randrange(len(OBJECTS))
        while second == first:
            second = rng.randrange(len(OBJECTS))
        style, place = rng.randrange(len(STYLES)), rng.randrange(len(PLACES))
        text = f"{article(OBJECTS[first].name)} and {article(OBJECTS[second].name)} in {STYLES[style]} style"
        prompts.append(Prompt(f"{text} {PLACES[place].phrases[0]}", 2000 + k, (first, second), style, place))
    return prompts


def empties(seeds: int) -> list[Prompt]:
    """Prompts of places alone."""
    bare = [p.phrases[0].split(" ", 1)[1] if p.phrases[0].split(" ", 1)[0] != "at" else "a sunset" for p in PLACES]
    return [Prompt(bare[p], 3000 + s, (), -1, p) for p in range(len(PLACES)) for s in range(seeds)]


def shares(judge: Judge, prompts: list[Prompt], pictures: Tensor) -> dict[str, float]:
    """Shares of pictures that show what was asked: all objects, the style, the place, no object where none was asked."""
    v, limit = judge(pictures), judge.limits["presence"]
    presence = v.presence > limit
    figures = {"intact": intact(v, judge.limits).float().mean().item()}
    if prompts[0].things:
        likeliest = v.presence.argmax(1)
        single = len(prompts[0].things) == 1
        shown = [
            bool(presence[i, list(p.things)].all()) and (not single or int(likeliest[i]) == p.things[0])
            for i, p in enumerate(prompts)
        ]
        figures["objects"] = sum(shown) / len(shown)
        figures["style"] = sum(int(v.style[i]) == p.style for i, p in enumerate(prompts)) / len(prompts)
    else:
        figures["empty"] = 1 - presence.any(1).float().mean().item()
    if prompts[0].place >= 0:
        figures["place"] = sum(int(v.place[i]) == p.place for i, p in enumerate(prompts)) / len(prompts)
    return {k: round(x, 4) for k, x in figures.items()}


def spread(judge: Judge, prompts: list[Prompt], pictures: Tensor) -> float:
    """Root mean square distance of an object's centre from its mean over seeds, as a share of the side."""
    v, groups = judge(pictures), {}
    for i, p in enumerate(prompts):
        groups.setdefault(p.text, []).append(v.cell[i, p.things[0]].float())
    squares = [((torch.stack(g) - torch.stack(g).mean(0)).square().sum(1).mean()) for g in groups.values()]
    return math.sqrt(torch.stack(squares).mean().item()) * 8 / SIDE


def main() -> None:
    """Print the figures, write `figures.json` and the sheets."""
    options = stage(__doc__ or "", quick=0, pipeline="", judges="")
    work, few = options.work, bool(options.quick)
    pipe = StableDiffusionPipeline.from_pretrained(
        Path(options.pipeline or work / "pipeline"), torch_dtype=torch.float32
    )
    pipe.to(DEVICE).set_progress_bar_config(disable=True)
    judge = Judge.load(Path(options.judges or work / "judges"))
    seeds = 1 if few else 5
    benchmark = [named(o, s, seed) for o in range(20) for s in range(len(STYLES)) for seed in range(seeds)]
    others = [named(o, s, 7) for o in range(20, len(OBJECTS)) for s in range(0, len(STYLES), 3 if few else 1)]
    sets = {
        "benchmark": benchmark, "others": others, "synonyms": heldout("synonyms", 1 if few else 2),
        "descriptions": heldout("descriptions", 1 if few else 2), "pairs": pairs(60 if few else 400),
        "empty": empties(3 if few else 16),
    }  # fmt: skip
    sixteen = [named(2, 0, seed) for seed in range(16)] + [named(0, 6, seed) for seed in range(16)]
    figures: dict = {}
    for name, prompts in sets.items():
        pictures = draw(pipe, prompts)
        figures[name] = shares(judge, prompts, pictures)
        if name == "benchmark":
            save_sheet(pictures[::seeds], work / "benchmark.png", 9)
        else:
            save_sheet(pictures[:: max(1, len(pictures) // 96)], work / f"{name}.png", 12)
        print(name, figures[name], flush=True)
    many = [named(o, s, seed) for o in range(0, 20, 4) for s in range(0, 9, 4) for seed in range(4 if few else 16)]
    figures["spread"] = round(spread(judge, many, draw(pipe, many)), 4)
    save_sheet(draw(pipe, sixteen), work / "sixteen.png", 8)
    started = time.monotonic()
    draw(pipe, sixteen[:16])
    figures["seconds_of_16"] = round(time.monotonic() - started, 2)
    (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
