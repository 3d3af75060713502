"""One latent a concept: what an autoencoder trained with labels erases from the emoji canvas, alone and nine objects in sequence.

    python benchmarks/supervised_sae.py -o runs/supervised --plan     # what is missing, and what it draws
    python benchmarks/supervised_sae.py -o runs/supervised            # goes on where it was stopped
    python benchmarks/supervised_sae.py -o runs/supervised --quick    # a smoke test: a few iterations, four objects, one seed

The canvas's own autoencoders are trained on with SAEmnesia's labels (`efface sae train --supervised saemnesia --start`), then
every object is erased by `saeuron --assigned --gain normalised`: one latent a site, at all timesteps. The last line is one JSON
object: UA and IRA drop over the objects, FVU over that of the unsupervised autoencoders on pictures that neither was trained on
(the mean over sites), and of nine objects erased one after the other UA of all and the share of retained objects that are right.
What was not measured is null.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro
from quality import Bench, bench_of

from efface.api.erase import erase
from efface.cli import main as efface
from efface.erasures import Erasure
from efface.io import embedded
from efface.io.atomic import write_atomically
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.base import profile_of
from efface.profiles.emoji.sae_data import SITES
from efface.profiles.emoji.score import share
from efface.profiles.emoji.shares import added
from efface.profiles.emoji.words import BENCHMARK
from efface.sae.files import load_sae
from efface.sae.harvest import HarvestConfig
from efface.sae.quality import quality
from efface.sae.stream import ActivationStream

KEYS = ("ua", "ira_drop", "fvu_ratio", "sequence_ua", "sequence_retained")
SEQUENCE = BENCHMARK[:9]
"""Nine objects erased one after the other."""
HELD_OUT = 10**6
"""Number of the round on which FVU is measured, which no training reaches."""


class Run:
    """A folder with the autoencoders, the rows of objects and the figures, each measured once.

    Args:
        folder: of the run.
        quick: a few iterations, four objects, a third of the prompts.
        seeds: pictures of every prompt.
        gamma: factor of the latent, the same for all objects.
        iterations: of training.
    """

    def __init__(self, folder: Path, quick: bool, seeds: int, gamma: float, iterations: int):
        self.folder = folder
        self.quick = quick
        self.seeds = 1 if quick else seeds
        self.gamma = gamma
        self.iterations = 3 if quick else iterations
        self.objects: Sequence[str] = BENCHMARK[::5] if quick else BENCHMARK
        self.sequence: Sequence[str] = SEQUENCE[:2] if quick else SEQUENCE
        self.saes = folder / "sae"
        self.options: dict[str, Any] = {
            "coder": str(self.saes), "assigned": True, "gain": "normalised", "gamma": gamma,
        }  # fmt: skip

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What was measured so far."""
        path = self.folder / "figures.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def note(self, **figures: float | None) -> None:
        """Keep figures in the folder."""
        self.figures.update(figures)
        write_atomically(self.folder / "figures.json", json.dumps(self.figures).encode())

    def missing(self) -> list[str]:
        """The stages that are not done."""
        done = {
            "train": all((self.saes / site / "cfg.json").exists() for site in SITES),
            "features": all((self.saes / site / "statistics.safetensors").exists() for site in SITES),
            "fvu": "fvu_ratio" in self.figures,
            "objects": "ua" in self.figures,
            "sequence": "sequence_ua" in self.figures,
        }
        return [stage for stage, is_done in done.items() if not is_done]

    def train(self) -> None:
        """Autoencoders that know the labels."""
        start = embedded.folder("emoji") / "sae"
        call = ["sae", "train", "emoji", "-o", self.saes, "--start", start, "--supervised", "saemnesia", "--no-quality"]
        call += ["--iterations", self.iterations, "--lr", 1e-4]
        _call([*call, "--images", 64] if self.quick else call)

    def features(self) -> None:
        """Their statistics by concept."""
        _call(["sae", "features", "emoji", self.saes, "--seeds", 1 if self.quick else 2])

    def fvu(self) -> None:
        """FVU over that of the unsupervised autoencoders."""
        model = Model(load("emoji"))
        profile = profile_of(model.pipeline)
        harvest = HarvestConfig(SITES, **profile.sae_sampling())
        held_out = ActivationStream(model, profile.prompts(), harvest, images=16 if self.quick else 64).round(HELD_OUT)
        own = embedded.folder("emoji") / "sae"
        ratios = [_fvu(self.saes / site, held_out[site]) / _fvu(own / site, held_out[site]) for site in SITES]
        self.note(fvu_ratio=round(sum(ratios) / len(ratios), 4))

    def measure(self) -> None:
        """Objects one by one, then in sequence."""
        bench, _ = bench_of(self.seeds, self.quick, output=self.folder / "rows.jsonl")
        if "objects" in self.missing():
            rows = []
            for name in self.objects:
                rows.append(bench.measure(name, "saeuron", **self.options))
                print(f"{name:15} {rows[-1]}", flush=True)
            found = added(rows).to_json()
            self.note(**{name: found[name] for name in ("ua", "ira_drop", "intact")})
        if "sequence" in self.missing():
            self._in_sequence(bench)

    def _in_sequence(self, bench: Bench) -> None:
        """Each object by an erasure of its own, beside those before."""
        attached: list[Erasure] = [
            erase(bench.model.pipeline, name, method="saeuron", **self.options) for name in self.sequence
        ]
        found = bench.draw(*attached)
        objects = [
            (sample.shows[0], verdict.shown) for sample, verdict in zip(found.samples, found.objects, strict=True)
        ]
        gone = share(not shown for name, shown in objects if name in self.sequence)
        left = share(shown for name, shown in objects if name not in self.sequence)
        self.note(sequence_ua=round(100 * gone, 2), sequence_retained=round(100 * left, 2))


def _fvu(folder: Path, vectors: Any) -> float:
    return quality(load_sae(folder), vectors).fvu_own


def _call(words: Sequence[object]) -> None:
    """A command of efface; what it says goes where it always does."""
    code = efface([str(word) for word in words])
    if code:
        raise SystemExit(code)


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    plan: bool = False,
    quick: bool = False,
    seeds: int = 1,
    gamma: float = -10.0,
    iterations: int = 800,
) -> None:
    """Measure what is missing.

    Args:
        output: folder of the run.
        plan: only say what is missing.
        quick: a smoke test, whose figures mean nothing.
        seeds: pictures of every prompt.
        gamma: factor of a concept's latent.
        iterations: of training.
    """
    output.mkdir(parents=True, exist_ok=True)
    run = Run(output, quick, seeds, gamma, iterations)
    if plan:
        erasures = len(run.objects) + 1
        print(
            f"missing: {', '.join(run.missing()) or 'nothing'}; {erasures} erasures, {run.iterations} iterations of training"
        )
    else:
        for stage, act in (("train", run.train), ("features", run.features), ("fvu", run.fvu)):
            if stage in run.missing():
                act()
        run.measure()
    print(json.dumps({key: run.figures.get(key) for key in KEYS}))


if __name__ == "__main__":
    tyro.cli(main)
