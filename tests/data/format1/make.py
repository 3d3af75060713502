"""Made the files beside it, with efface 0.1.0; they are never made again, since they stand for files that users have.

PYTHONPATH=src:tests/support python tests/data/format1/make.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import efface
import tiny
from attacked import Field
from efface.bench import leaderboard, manifest, table
from efface.bench.prompt_files import read_prompts
from efface.bench.protocols.base import Drawing, load_erasures
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.results import results_of
from efface.bench.protocols.prompts import Prompts
from efface.bench.protocols.run import Run
from efface.bench.unit import Setting, sha256_of
from efface.cli.bench.common import _data
from efface.cli.bench.prompts import Request
from efface.erasures import ActivationEdit, TextMap, WeightDelta
from efface.redteam.findings import Findings
from efface.redteam.samples import Samples
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import load_sae, sae_hash, save_sae
from efface.sae.saelens import save_saelens
from efface.steering.statistics_source import measure_statistics
from tiny_judges import Hues

CHURCH = efface.Concept(
    "church", anchor="cat", aliases=("dog",), templates=("a {}", "a {} in noto style"), keep=("a truck", "art style")
)
DRAWN = {"steps": 2, "guidance": 5.0}


def main() -> None:
    """Write everything into the current folder."""
    model()
    pipe = efface.load("model")
    autoencoder(pipe)
    erasures(pipe)
    benchmarks(pipe)
    audit_and_attacks(pipe)
    Path("made.json").write_text(json.dumps(made(pipe), indent=1) + "\n")


def model() -> None:
    """A tiny Stable Diffusion 1, its weights in half precision, so that a newer library cannot give it other ones."""
    pipe = tiny.stable_diffusion()
    pipe.to(torch.float16).save_pretrained("model")


def autoencoder(pipe: object) -> None:
    """An autoencoder with statistics, and the same in SAELens's layout."""
    sae = SparseAutoencoder(SAEConfig(pipe.unet.mid_block.attentions[0].in_channels, 32, 4))
    folder = Path("sae") / tiny.SITE
    save_sae(sae, folder, site=tiny.SITE)
    save_saelens(sae, Path("saelens"), tiny.SITE, "tiny")
    model = efface.Model(pipe)
    concepts = [CHURCH, efface.Concept("dog", templates=("a {}",))]
    stats = measure_statistics(model, {tiny.SITE: sae}, concepts, ("a cat",), images=2, steps=2, guidance=5.0, seed=0)
    stats[tiny.SITE].save(folder / "statistics.safetensors")


def erasures(pipe: object) -> None:
    """One of every kind and mode, those of several concepts, and one by every method."""
    keep = ["a truck"]
    coder = {"coder": "sae", "site": tiny.SITE, "count": 2, "gamma": -20.0}
    drawn = {"coder": "sae", "site": tiny.SITE, "images": 2, "draw_steps": 2, "guidance": 5.0}
    made = {
        "uce": efface.erase(pipe, CHURCH, method="uce", keep=keep),
        "uce-two": efface.erase(pipe, [CHURCH, "dog"], method="uce", keep=keep),
        "uce-strong": efface.erase(pipe, CHURCH, method="uce", rows="all", keep=[]),
        "uce-tensor": efface.erase(pipe, CHURCH, method="uce", target="tensor", keep=keep),
        "rece": efface.erase(pipe, CHURCH, method="rece", keep=keep, epochs=1),
        "preserve": efface.erase(pipe, CHURCH, method="preserve", keep=keep),
        "project": efface.erase(pipe, CHURCH, method="project", keep=keep),
        "saeuron": efface.erase(pipe, CHURCH, method="saeuron", **coder),
        "saeuron-exact": efface.erase(pipe, CHURCH, method="saeuron", mode="exact", gain="clamp", **coder),
        "saeuron-published": efface.erase(pipe, CHURCH, method="saeuron", mode="published", **coder),
        "anchored": efface.erase(pipe, CHURCH, method="anchored", **drawn),
    }
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    weight = pipe.unet.get_parameter(name.removeprefix("unet."))
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    made["dense"] = WeightDelta(made["uce"].provenance, {name: change})
    kinds = {type(erasure) for erasure in made.values()}
    assert kinds == {TextMap, WeightDelta, ActivationEdit}, kinds
    for name, erasure in made.items():
        erasure.save(f"{name}.safetensors")


def benchmarks(pipe: object) -> None:
    """A finished run of a user's prompts, and one of the canvas with verdicts that nobody gave."""
    folder = Path("bench")
    folder.mkdir()
    Path("prompts.csv").write_text("prompt,seed,guidance\na church,5,4\na dog in noto style,6,3\n")
    protocol = Prompts(read_prompts(Path("prompts.csv")), {"hues": Hues("a", "b", "c")})
    chosen = load_erasures([Path("uce.safetensors"), Path("saeuron.safetensors")])
    run = Run(efface.Model(pipe), protocol, chosen, folder, drawing=Drawing(steps=2, guidance=4.0))
    run.run()
    _data(run, Request(model="model", prompts=Path("prompts.csv")), run.rows())
    run.ledger.close()
    plan = Plan(("uce",), seeds=1, quick=True, mode="together")
    setting = Setting("base", "float32", "scheduler", 12, 3.0, None, None, ("object: o-1", "style: s-1"), 1)
    folder = Path("canvas")
    (folder / "erasures").mkdir(parents=True)
    manifest.begin(folder, manifest.Record.now("canvas", asdict(plan), {"family": "made up"}, setting))
    results = results_of(folder, manifest.read(folder))
    seen = [()]
    for target in plan.targets:
        for path in results.files("uce", target):
            TextMap.load("uce.safetensors" if not seen[1:] else "uce-two.safetensors").save(path)
        seen.append(tuple(sha256_of(path) for path in results.files("uce", target)))
    for files in seen:
        for number, unit in enumerate(results.units(files)):
            entry = {"label": "church" if files and number % 2 else "none", "score": 0.9, "intact": True}
            results.ledger.record(unit, [{"object": entry, "style": entry} for _ in unit.prompts], 1.5)
    results.ledger.close()


def audit_and_attacks(pipe: object) -> None:
    """An audit, a folder to share, and what two attacks found: prompts, and embeddings."""
    erasure = efface.Erasure.load("uce-strong.safetensors")
    field = Field(pipe, erasure)
    how = efface.Sampling(steps=2, guidance=5.0)
    efface.audit(pipe, erasure, seeds=1, sampling=how).save("audit")
    erasure.save_pretrained("shared", audit="audit", licence="cc0-1.0")
    for method, few in {"ring-a-bell": 1, "inversion": 0}.items():
        small = (
            {"length": 4, "population": 8, "generations": 2}
            if method == "ring-a-bell"
            else {"images": 2, "iterations": 2, "batch": 2, "looks": 2}
        )
        efface.attack(
            pipe,
            erasure,
            CHURCH,
            method=method,
            judge=field.judge,
            sampling=how,
            folder=f"attack/{method}",
            samples=Samples(count=2, sanity=few, batch=2),
            **small,
        )


def made(pipe: object) -> dict:
    """What all of it says and does today."""
    files = {path.stem: efface.Erasure.load(path) for path in sorted(Path().glob("*.safetensors"))}
    plain, effect = drawn(pipe), {}
    for name, erasure in files.items():
        with erasure.attached(pipe):
            effect[name] = float((drawn(pipe) - plain).abs().mean())
    found = {path.parent.name: Findings.load(path) for path in sorted(Path("attack").glob("*/findings.json"))}
    rows = {run: leaderboard.finished(Path(run)).rows for run in ("bench", "canvas")}
    return {
        "sha256": {name: erasure.summary()["sha256"] for name, erasure in files.items()},
        "effect": effect,
        "autoencoder": sae_hash(load_sae(Path("sae") / tiny.SITE)),
        "attack": {name: [str(f.pre_asr), str(f.gained), str(f.asr)] for name, f in found.items()},
        "table": {run: table.markdown(lines) for run, lines in rows.items()},
    }


def drawn(pipe: object) -> torch.Tensor:
    """Latents of a picture of the concept."""
    model = efface.Model(pipe)
    return model.latents(model.encode(["a church in noto style"]), seeds=[0], **DRAWN).double()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.chdir(sys.argv[1])
    main()
