"""Check the published canvas: figures and sample sheets of docs/canvas.md.

python -m recipes.emoji.check                # everything, about ten minutes on two cores
python -m recipes.emoji.check --seeds 1      # a look
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import tyro
from diffusers import DDIMScheduler

from efface.io import embedded
from efface.io.images import save_picture
from efface.judges import embedded_judge
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.score import JudgedImages, draw_and_judge, share
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import BENCHMARK, OBJECTS, STYLES, caption, held_out
from efface.report.grid import image_grid
from efface.report.plot import line_plot

BEGIN, END = "<!-- figures: python -m recipes.emoji.check -->", "<!-- end of figures -->"


def accuracy(found: JudgedImages) -> dict[str, float]:
    """Shares of pictures whose object and style are right, and that are intact."""
    return {
        "object": share(v.label == s.shows[0] for v, s in zip(found.objects, found.samples, strict=True)),
        "style": share(v.label == s.shows[1] for v, s in zip(found.styles, found.samples, strict=True)),
        "intact": share(v.intact for v in found.objects),
    }


def solver_agreement(pipeline: Any, prompts: list[str]) -> dict[str, float]:
    """How often the judges name the same object and style with few steps as with 100 DDIM steps, same seeds."""
    judges = (embedded_judge("emoji", "object"), embedded_judge("emoji", "style"))
    seeds = list(range(len(prompts)))

    def labels(steps: int) -> list[tuple[str, ...]]:
        pictures = Model(pipeline).draw(prompts, seeds=seeds, steps=steps, guidance=GUIDANCE)
        return [judge(pictures).labels for judge in judges]

    own = pipeline.scheduler
    pipeline.scheduler = DDIMScheduler.from_config(
        own.config, timestep_spacing="leading", clip_sample=False, set_alpha_to_one=False
    )
    reference = labels(100)
    pipeline.scheduler = own
    agreement = {}
    for steps in (6, 8, 12, 20):
        found = labels(steps)
        same = [a == b for f, r in zip(found, reference, strict=True) for a, b in zip(f, r, strict=True)]
        agreement[str(steps)] = share(same)
    return agreement


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    judges = figures["judges"]
    rows = [
        ("pictures of every benchmark pair", str(figures["seeds"]), "5"),
        ("object judge right, benchmark pairs", f"{figures['trained']['object']:.1%}", "≥ 95%"),
        ("style judge right, benchmark pairs", f"{figures['trained']['style']:.1%}", "≥ 95%"),
        ("intact, benchmark pairs", f"{figures['trained']['intact']:.1%}", "≥ 98%"),
        (
            "object / style right, held-out pairs",
            f"{figures['held_out']['object']:.1%} / {figures['held_out']['style']:.1%}",
            "reported",
        ),
        ("intact, held-out pairs", f"{figures['held_out']['intact']:.1%}", "reported"),
        ("object judge, unseen augmentations / reconstructions", _two(judges["object"]), "≥ 99%"),
        ("style judge, unseen augmentations / reconstructions", _two(judges["style"]), "≥ 99%"),
        ("debris refused by `intact` (object judge)", f"{judges['object']['debris_refused']:.1%}", "reported"),
        (
            "same verdicts as 100 DDIM steps",
            ", ".join(f"{k} steps {v:.1%}" for k, v in figures["agreement"].items()),
            f"{STEPS} steps chosen",
        ),
        ("16 pictures, standard solver, two cores", f"{figures['seconds_16']:.1f} s", "< 10 s"),
        ("size of the package's weights, autoencoders included", f"{figures['megabytes']:.1f} MB", "< 42 MB"),
    ]
    lines = [f"| {name} | {value} | {target} |" for name, value, target in rows]
    return "\n".join(["| what | measured | target |", "|---|---|---|", *lines])


def _two(judge: dict[str, Any]) -> str:
    return f"{judge['accuracy_augmented']:.1%} / {judge['accuracy_reconstructed']:.1%}"


def main(work: Path = Path("build/emoji"), seeds: int = 5, docs: Path = Path("docs")) -> None:
    """Measure the canvas against its targets and write `docs/canvas.md`'s table, sheet and loss curve.

    Args:
        work: folder of the recipe's products, for the loss curve.
        seeds: pictures of every benchmark prompt.
        docs: where the documentation lies.
    """
    pipeline = load("emoji")
    model = Model(pipeline)
    index = {t.name: i for i, t in enumerate(OBJECTS)}
    pairs = [(o, s) for o in BENCHMARK for s in STYLES]
    hidden = [(o, s) for o, s in pairs if held_out(index[o], STYLES.index(s))]
    shown = [pair for pair in pairs if pair not in hidden]
    started = time.perf_counter()
    model.draw([caption(*pair) for pair in shown[:16]], seeds=range(16), steps=STEPS, guidance=GUIDANCE)
    seconds_16 = time.perf_counter() - started
    trained, unseen = (draw_and_judge(model, some, seeds=range(seeds)) for some in (shown, hidden))
    figures = {
        "trained": accuracy(trained),
        "held_out": accuracy(unseen),
        "judges": json.loads((embedded.folder("emoji") / "judges" / "judges.json").read_text()),
        "agreement": solver_agreement(pipeline, [caption(*pair) for pair in shown[::4]]),
        "seeds": seeds,
        "seconds_16": seconds_16,
        "megabytes": sum(p.stat().st_size for p in embedded.folder("emoji").rglob("*") if p.is_file()) / 1e6,
    }
    rows = [[(trained if (o, s) in shown else unseen).image((o, s), 0) for s in STYLES] for o in BENCHMARK]
    save_picture(image_grid(rows, columns=STYLES, labels=BENCHMARK, cell=64), docs / "canvas.png")
    if (work / "denoiser-run" / "log.jsonl").exists():
        lines = map(json.loads, (work / "denoiser-run" / "log.jsonl").read_text().splitlines())
        curve = [(line["step"], line["loss"]) for line in lines]
        line_plot({"loss": curve}, docs / "canvas-loss.png", title="weighted denoising loss over training steps")
    page = docs / "canvas.md"
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}")
    misses = {o: accuracy_of(trained, o) for o in BENCHMARK}
    print("weakest objects:", sorted(misses.items(), key=lambda item: item[1])[:5])
    print(json.dumps(figures))


def accuracy_of(found: JudgedImages, name: str) -> float:
    """Share of one object's pictures that the object judge names right."""
    return share(v.label == name for v, s in zip(found.objects, found.samples, strict=True) if s.shows[0] == name)


if __name__ == "__main__":
    tyro.cli(main)
