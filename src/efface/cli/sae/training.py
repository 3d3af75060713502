"""What trainings on pictures and on prompts share: the request, lines meanwhile, the curve, the figures at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.output import say

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Request:
    """Train autoencoders; the training's own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, a .safetensors checkpoint, or a vision-language model's folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("sae")
    """Folder of the run, with a folder for each site at the end."""
    sites: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--site"])] = ()
    """fnmatch patterns over modules; the canvas's, or the paper's two blocks. `text_encoder` is the usual layer of that text encoder,
    `text_encoder.PATTERN` any of its modules: those are trained from prompts alone, and no picture is drawn."""
    prompts: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A .txt file with one prompt a line; `canvas` for the canvas's captions."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Of a vision-language model: the pictures whose features are read; sites are `projector` or `vision_tower.layers.NUMBER`."""
    shards: Path | None = None
    """A harvest's folder to train from, instead of drawing."""
    concepts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """What prompts show, for training with labels (--supervised): a JSON file {"kind": {"concept": ["prompt", …]}} whose prompts are
    drawn; the canvas's benchmark by default."""
    start: Path | None = None
    """Folder of a run whose autoencoders training begins with, instead of random weights."""
    images: int | None = None
    """Pictures drawn for each round of training; by default as many as a quarter of free memory holds the activations of, at
    most 128. For layers of text encoders prompts, 2048 by default."""
    steps: int | None = None
    """Denoising steps of the pictures."""
    guidance: float | None = None
    """Their guidance scale."""
    quality: bool = True
    """At the end, draw one more round and measure the autoencoders on it."""
    plan: bool = False
    """Only say what was decided and what it will cost, measured on one denoising step of one batch."""
    json: bool = False
    """Print one JSON object instead of a table."""


def trained_on(pipeline: Any) -> torch.device | None:
    """Where autoencoders are trained: where the model computes; None leaves it to the training."""
    from efface.families.layers import execution_device

    device = execution_device(pipeline)
    return device if device.type in ("cpu", "cuda") else None


def say_figures(line: dict[str, Any]) -> None:
    """Say the figures of a line of the log."""
    figures = "; ".join(
        f"{name.removeprefix('unet.')} FVU {f['fvu']:.3f}, dead {f['dead']:.1%}" for name, f in line["sites"].items()
    )
    say(f"step {line['step']}, {line['seconds']:.0f} s: {figures}")


def plot_curve(run: Path) -> None:
    """`curve.png`: the share of variance left, over steps, for every site."""
    from efface.report.plot import line_plot

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    series = {name: [(line["step"], line["sites"][name]["fvu"]) for line in lines] for name in lines[-1]["sites"]}
    line_plot(series, run / "curve.png", title="share of variance left over training steps")


def quality_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of a table of what a training ended with."""
    rows = [("folder", data["folder"])]
    for name, q in data["sites"].items():
        rows += [(f"{name} at k = {k}", f"FVU {v:.3f}, PCA {q['pca'][k]:.3f}") for k, v in q["fvu"].items()]
        rows.append(
            (f"{name} own rule", f"FVU {q['fvu_own']:.3f}, {q['l0']:.1f} active, {q['never_fired']:.1%} never fired")
        )
        if "rise" in q:
            rows.append((f"{name} in its place", f"the denoising loss rises by {q['rise']:.2%}"))
    return rows
