"""Speed of the attacks: Ring-A-Bell's fitness beside the one-candidate-at-a-time public procedure, and UnlearnDiffAtk's
gradient steps beside a bare forward and backward pass.

    python benchmarks/attack_speed.py        # about three minutes on two cores

Ring-A-Bell is timed on the canvas's text encoder and on one of CLIP ViT-L's size (random weights, 77 tokens, width 768):
the fitness of the children of one generation at the published odds. The public procedure gives the encoder one prompt at a
time and compares all positions (that it measures the parents again each time is not counted against it); ours encodes
batches, and no prompt twice. Both give the same values. UnlearnDiffAtk's step is the search itself, four samples in one batch
on the canvas with all tokens as candidates; the bare pass encodes the same embeddings, predicts once, and goes back to them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
import tyro
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

import efface
from efface.attacks.base import Problem
from efface.attacks.genetic import Odds, children, fitness_of
from efface.attacks.ring_a_bell import distance
from efface.attacks.unlearndiff import Config, search
from efface.concepts.sample import SEEDS, Sample
from efface.erasures.switch import ModelVariant, keep_attached
from efface.models.load import load
from efface.models.losses import denoising_loss
from efface.models.model import Model, Settings
from efface.models.sampling import sample_latents
from efface.models.tokens import framed
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import STYLES

VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
BATCH = 4
"""Tries of UnlearnDiffAtk side by side, its default."""


def alternately(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each, timed in turn."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - started)
    return {name: sorted(times)[len(times) // 2] for name, times in taken.items()}


def large_text() -> Model:
    """The canvas with a text encoder of CLIP ViT-L's size and length in place of its own."""
    pipeline = load("emoji")
    pipeline.tokenizer.model_max_length = 77
    sizes = VIT_L | {"max_position_embeddings": 77, "vocab_size": 49_408}
    ids = {f"{name}_token_id": getattr(pipeline.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    pipeline.text_encoder = CLIPTextModel(CLIPTextConfig(**sizes | ids)).eval()  # type: ignore[arg-type]
    return Model(pipeline)


def ring_a_bell(model: Model, population: int, rounds: int) -> float:
    """How many times as many fitness values a second as one prompt at a time."""
    generator = torch.Generator().manual_seed(0)
    half, words = population // 2, len(model.family.tokenizers()[0])
    parents = torch.randint(words, (half, min(16, model.max_tokens)), generator=generator)
    born = children(parents, half, Odds(0.5, 0.25, words), generator)
    encoder, (ids,) = next(iter(model.family.text_encoders().values())), framed(model.family, born.tolist())
    with torch.no_grad():
        target = encoder(ids[:1])[0][0] + 0.1
        known = distance(model, parents, target)

    def public() -> Tensor:
        with torch.no_grad():
            return torch.stack([(encoder(row[None])[0][0] - target).square().sum() for row in ids])

    def ours() -> Tensor:
        return fitness_of(born, parents, known, lambda ids: distance(model, ids, target))

    torch.testing.assert_close(ours(), public(), rtol=1e-3, atol=0)
    works: dict[str, Callable[[], object]] = {
        "public": public,
        "batched": lambda: distance(model, born, target),
        "ours": ours,
    }
    times = alternately(works, rounds)
    for name, taken in times.items():
        print(f"  {name:7} {half / taken:8.1f} fitness values a second", flush=True)
    return times["public"] / times["ours"]


def problem_of_church() -> Problem:
    """UnlearnDiffAtk's samples against an erased church."""
    model = Model(load("emoji"))
    styles = STYLES[:BATCH]
    samples = tuple(Sample(f"a church in {style} style", SEEDS.attack + i) for i, style in enumerate(styles))
    settings: Settings = {"steps": STEPS, "guidance": GUIDANCE}
    latents = sample_latents(model, [s.prompt for s in samples], [s.seed for s in samples], settings, BATCH)
    erased = ModelVariant(model, (efface.erase(model.pipeline, "church", method="uce"),))
    (concept,) = erased.erasures[0].provenance.concepts
    return Problem(
        original=ModelVariant(model),
        erased=erased,
        concept=concept,
        samples=samples,
        latents=latents,
        settings=settings,
        seed=0,
    )


def unlearndiff(steps: int, rounds: int) -> float:
    """Time of one of the search's steps over that of a bare forward and backward pass."""
    problem = problem_of_church()
    config = Config(iterations=steps)
    table = problem.model.token_table().float()
    ids = [[*range(3), *content] for content in problem.contents()]
    noise, level = problem.randn(0), problem.timesteps(config.timesteps)[0]

    def bare() -> None:
        with problem.erased.attached() as model:
            for _ in range(steps):
                soft = torch.nn.utils.rnn.pad_sequence([table[row] for row in ids], batch_first=True).requires_grad_()
                denoising_loss(model, problem.latents, noise, level, model.encode_tokens(ids, soft)).sum().backward()

    def ours() -> object:
        return next(search(problem, config, None))

    with keep_attached():
        times = alternately({"bare": bare, "ours": ours}, rounds)
    for name, taken in times.items():
        print(f"  {name:6} {1000 * taken / steps:8.1f} ms a step", flush=True)
    return times["ours"] / times["bare"]


def main(population: int = 200, steps: int = 20, rounds: int = 5) -> None:
    """Time both attacks.

    Args:
        population: of Ring-A-Bell (paper: 200), of which half is born in a generation.
        steps: of UnlearnDiffAtk's gradient.
        rounds: of which the median is taken.
    """
    figures = {}
    print("Ring-A-Bell, the canvas's text encoder", flush=True)
    figures["ring_a_bell_ratio"] = ring_a_bell(Model(load("emoji")), population, rounds)
    print("Ring-A-Bell, a text encoder of CLIP ViT-L's size", flush=True)
    figures["ring_a_bell_clip_ratio"] = ring_a_bell(large_text(), population, rounds)
    print("UnlearnDiffAtk on the canvas", flush=True)
    figures["unlearndiff_ratio"] = unlearndiff(steps, rounds)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    tyro.cli(main)
