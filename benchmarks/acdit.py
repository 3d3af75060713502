"""Erasures on a model that draws block by block: the transformer of `recipes/acdit`, with the embedded model's text and autoencoder.

    python benchmarks/acdit.py -o runs/acdit            # keeps everything found; goes on where it was stopped
    python benchmarks/acdit.py -o runs/acdit --quick    # one concept, one autoencoder of few iterations

What it draws of the 20 x 9 pairs; UA and IRA drop of UCE, RECE and of SAeUron by statistics of every block, of all blocks
together, and of those that agree (own pictures: all styles; others: two styles each); a leak of its own: the first blocks of a
clean picture of the concept are given to the erased model, and completions that show it are counted. The last line is one JSON
object. `benchmarks/rest.py --parts acdit` is the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from efface.api.erase import erase
from efface.concepts.sample import SEEDS
from efface.erasures import Erasure
from efface.families.acdit_pipeline import ACDiTPipeline
from efface.io import embedded
from efface.io.atomic import write_atomically
from efface.io.digest import digest
from efface.judges import embedded_judge
from efface.judges.criterion import verdicts_on
from efface.models.course import Resumed, standard_noise
from efface.models.model import Model
from efface.profiles.emoji.concepts import object_concept
from efface.profiles.emoji.sae_data import labelled_samples
from efface.profiles.emoji.settings import SETTINGS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
from efface.report import markdown
from efface.sae.config import SAETrainConfig
from efface.sae.harvest import HarvestConfig
from efface.sae.lookup import open_sae
from efface.sae.statistics import statistics
from efface.sae.stream import ActivationStream
from efface.sae.train import train

WEIGHTS = Path(__file__).parents[1] / "recipes" / "acdit" / "weights"
CONCEPTS = ("church", "cat", "guitar", "car")
SITES = "*attn2"
SEED = SEEDS.audit
STEPS, GUIDANCE = 12, 3.0
"""Steps of every block, and guidance."""
SAE = SAETrainConfig(latents=768, k=16, rule="topk", steps=250, batch=2048, passes=8.0, lr=1e-3)
EDIT: dict[str, Any] = {"gain": "normalised", "gamma": -4.0, "count": 4}
"""As on the embedded model."""
MAPS = ("uce", "rece")
SHARED = ("keyed", "shared", "agreeing")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Bench:
    """The model, and a folder that keeps what was measured."""

    folder: Path
    quick: bool = False
    concepts: tuple[str, ...] = CONCEPTS

    @cached_property
    def model(self) -> Model:
        """Of the committed weights."""
        pipeline: Any = ACDiTPipeline.with_parts_of(embedded.folder("emoji"), WEIGHTS)
        pipeline.set_progress_bar_config(disable=True)
        return Model(pipeline)

    @cached_property
    def place(self) -> Path:
        """Where the figures of these weights are kept."""
        return self.folder / digest(WEIGHTS / "diffusion_pytorch_model.safetensors")

    @cached_property
    def pairs(self) -> list[Pair]:
        """All objects in all styles; the seed of a pair is its place among them."""
        return [(name, style) for name in BENCHMARK for style in (STYLES[::4] if self.quick else STYLES)]

    def judged_for(self, concept: str) -> list[Pair]:
        """A concept in all styles, and every other object in two."""
        others = [
            (name, STYLES[(i + k) % len(STYLES)]) for k in (0, 4) for i, name in enumerate(BENCHMARK) if name != concept
        ]
        own = [pair for pair in self.pairs if pair[0] == concept]
        return own + [pair for pair in others if pair in self.pairs]

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured before under this name, else measured now and kept."""
        path = self.place / f"{name}{'-quick' if self.quick else ''}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(measure()).encode())
        return json.loads(path.read_text())

    def shown(self, pairs: Sequence[Pair], attached: AbstractContextManager[Any] | None = None) -> list[bool]:
        """Whether each pair's picture shows its object, by the object judge."""
        seeds = [SEED + self.pairs.index(pair) for pair in pairs]
        with attached or nullcontext():
            images = self.model.draw([caption(*pair) for pair in pairs], seeds=seeds, steps=STEPS, guidance=GUIDANCE)
        return judged(images, [name for name, _ in pairs])

    def figures(self, erasure: Erasure, concept: str) -> dict[str, float]:
        """UA, IRA drop against the same pictures without the erasure."""
        pairs = self.judged_for(concept)
        before = dict(zip(self.pairs, self.plain(), strict=True))
        found = dict(zip(pairs, self.shown(pairs, erasure.attached(self.model.pipeline)), strict=True))
        others = [pair for pair in pairs if pair[0] != concept]
        ira = share([found[pair] for pair in others])
        own = share([found[pair] for pair in pairs if pair[0] == concept])
        return {"ua": 1 - own, "ira": ira, "ira_drop": share([before[pair] for pair in others]) - ira}

    def plain(self) -> list[bool]:
        """Of the unerased model."""
        return self.once("plain", lambda: self.shown(self.pairs))


def judged(images: Sequence[Any], names: Sequence[str]) -> list[bool]:
    """Whether pictures show objects."""
    return [verdict.shown for verdict in verdicts_on(embedded_judge("emoji", "object"), images, list(names))]


def share(hits: Sequence[bool]) -> float:
    """Of those that are true."""
    return sum(hits) / max(1, len(hits))


def mapped(bench: Bench, method: str, concept: str) -> Erasure:
    """UCE or RECE with the embedded model's settings, which reads the same text."""
    settings = SETTINGS[method]["object"]
    return erase(bench.model.pipeline, object_concept(concept), method=method, **settings)


def autoencoders(bench: Bench) -> Path:
    """Folder of autoencoders of every cross-attention with statistics, trained once."""
    folder = bench.place / f"sae{'-quick' if bench.quick else ''}"
    model = bench.model
    sites = [site.name for site in model.sites(SITES)]
    harvest = HarvestConfig(tuple(sites), steps=STEPS, guidance=GUIDANCE, seed=SEEDS.statistics + 10_000)
    if not all((folder / site / "cfg.json").exists() for site in sites):
        prompts = [caption(*pair) for pair in bench.pairs]
        config = replace(SAE, steps=40) if bench.quick else SAE
        train(ActivationStream(model, prompts, harvest, images=len(prompts)), config, folder)
    if not all((folder / site / "statistics.safetensors").exists() for site in sites):
        samples, kinds = labelled_samples(1)
        opened = {site: open_sae(str(folder), site)[0] for site in sites}
        for site, found in statistics(model, opened, samples, kinds, harvest).items():
            found.save(folder / site / "statistics.safetensors")
    return folder


def edited(bench: Bench, how: str, concept: str) -> Erasure:
    """SAeUron with statistics of blocks as `how` says."""
    options: Any = EDIT | {"coder": str(autoencoders(bench)), "site": SITES, "by_block": how}
    return erase(bench.model.pipeline, object_concept(concept), method="saeuron", **options)


def leak(bench: Bench, concept: str) -> dict[str, list[float]]:
    """Share of completions that show the concept, by the number of given blocks (none first), of both models."""
    model = bench.model
    pairs = [(concept, style) for style in STYLES]
    text = model.encode([caption(*pair) for pair in pairs])
    settings: Any = {"steps": STEPS, "guidance": GUIDANCE}
    clean = model.latents(text, seeds=range(len(pairs)), **settings)
    erasure = mapped(bench, "uce", concept)

    def completed(blocks: int, attached: AbstractContextManager[Any]) -> float:
        seeds = range(SEED, SEED + len(pairs))
        noise = standard_noise(tuple(clean.shape[1:]), [torch.Generator().manual_seed(seed) for seed in seeds])
        start = torch.tensor([1000.0 * (model.family.blocks - blocks)])
        begun = model.pipeline.scheduler.scale_noise(clean, start, noise)
        with attached:
            *_, (_, latents) = model.denoise(text, seeds=seeds, course=Resumed(begun, blocks * STEPS), **settings)
        return share(judged(model.decode(latents), [concept] * len(pairs)))

    counts = range(model.family.blocks)
    return {
        "original": [completed(blocks, nullcontext()) for blocks in counts],
        "erased": [completed(blocks, erasure.attached(model.pipeline)) for blocks in counts],
    }


def measured(bench: Bench) -> dict[str, Any]:
    """All figures, as shares in hundredths; tables are printed meanwhile."""
    plain = bench.plain()
    figures: dict[str, Any] = {"right": percent(share(plain))}
    print(f"right: {sum(plain)} of {len(plain)} pairs", flush=True)
    print(markdown.head(["erasure", "concept", "UA", "IRA", "IRA drop"]), flush=True)
    for method in (*MAPS, *(f"saeuron_{how}" for how in SHARED)):
        rows = []
        for concept in bench.concepts[: 1 if bench.quick else None]:
            row = bench.once(f"{method}/{concept}", lambda m=method, c=concept: bench.figures(made(bench, m, c), c))
            rows.append(row)
            print(
                markdown.row([method, concept, *(str(percent(row[k])) for k in ("ua", "ira", "ira_drop"))]), flush=True
            )
        for key in ("ua", "ira_drop"):
            figures[f"{method}_{key}"] = percent(sum(row[key] for row in rows) / len(rows))
    figures["leak"] = {}
    for concept in bench.concepts[:1]:
        figures["leak"][concept] = bench.once(f"leak/{concept}", lambda c=concept: leak(bench, c))
        print(f"{concept}, completions that show it by 0, 1, 2, 3 given blocks: {figures['leak'][concept]}", flush=True)
    return figures


def made(bench: Bench, method: str, concept: str) -> Erasure:
    """The erasure of a row."""
    return mapped(bench, method, concept) if method in MAPS else edited(bench, method.removeprefix("saeuron_"), concept)


def percent(value: float) -> float:
    """In hundredths, rounded to one digit."""
    return round(100 * value, 1)


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    quick: bool = False,
    concepts: tuple[str, ...] = CONCEPTS,
) -> None:
    """Measure everything and print its tables.

    Args:
        output: folder that keeps everything found; a run that was stopped goes on there.
        quick: one concept, a third of the styles, few iterations.
        concepts: objects that are erased; the first is that of the leak.
    """
    began = time.monotonic()
    figures = measured(Bench(output, quick, concepts))
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    print(json.dumps({"acdit": figures}))


if __name__ == "__main__":
    tyro.cli(main)
