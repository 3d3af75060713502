"""Draw pictures, with erasures attached or without."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import batched, result, say_decisions
from efface.errors import UsageError

BATCH = 16
"""Pictures drawn together."""


@dataclass(frozen=True)
class Request:
    """Draw pictures of prompts; several prompts or seeds make a sheet."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    prompts: tyro.conf.Positional[tuple[str, ...]]
    """One or more prompts."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out.png")
    """PNG file to write."""
    erasure: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """An erasure file, once for each, in the order in which they are attached."""
    scale: float = 1.0
    """Strength of the erasures: 0 none, 1 full."""
    fold: bool = False
    """Edit the weights instead of mapping the text states."""
    force: bool = False
    """Attach also to a fine-tune of the model the erasure was made for."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"], metavar="SEED [SEED ...]")] = (0,)
    """Seeds; every prompt is drawn with each."""
    steps: int | None = None
    """Denoising steps (those of the pipeline's own call; the emoji canvas's standard is 12)."""
    guidance: float | None = None
    """Guidance scale (that of the pipeline's own call; the emoji canvas's standard is 4.5)."""
    negative: str | None = None
    """Negative prompt."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface generate", description=__doc__, seeded=False)
    if not request.prompts:
        raise UsageError("no prompt was given: name what to draw, for example 'a cat in noto style'.")
    from efface.api.decisions import about_drawing
    from efface.cli.progress import ProgressBar
    from efface.erasures import Erasure
    from efface.io.images import save_picture
    from efface.io.progress import drawing
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.report.grid import image_grid

    erasures = [Erasure.from_pretrained(path) for path in request.erasure]
    pipeline = options.load(request.model)
    model = Model(pipeline)
    sampling = options.sampling(request.steps, request.guidance, request.negative)
    settings = sampling.settings(pipeline)
    work = [(prompt, seed) for prompt in request.prompts for seed in request.seeds]
    seeds = [str(seed) for seed in request.seeds]
    decisions = about_drawing(pipeline, sampling, seeds=seeds)
    say_decisions([*drawing_rows(decisions), *(("erasure", str(path)) for path in request.erasure)])
    started = time.perf_counter()
    with ExitStack() as stack:
        for erasure in erasures:
            stack.enter_context(erasure.attached(pipeline, scale=request.scale, fold=request.fold, force=request.force))
        progress = stack.enter_context(ProgressBar(f"drawing {len(work)} pictures"))
        stack.enter_context(drawing(progress, len(work)))
        pictures = []
        for chunk in batched(work, options.batch or BATCH):
            prompts, numbers = zip(*chunk, strict=True)
            pictures += model.draw(prompts, seeds=numbers, **settings)
    seconds = time.perf_counter() - started
    count = len(request.seeds)
    if len(work) == 1:
        page = pictures[0]
    else:
        # Prompts are columns, seeds are rows.
        rows = [[pictures[p * count + s] for p in range(len(request.prompts))] for s in range(count)]
        page = image_grid(rows, columns=request.prompts, labels=[f"seed {s}" for s in request.seeds])
    save_picture(page, request.output)
    data = {"output": str(request.output), "pictures": len(pictures), "seconds": round(seconds, 2)} | settings
    result(data, as_json=request.json, rows=[(name, str(value)) for name, value in data.items()])
