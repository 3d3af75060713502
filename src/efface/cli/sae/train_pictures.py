"""Training on image features of a vision-language model, from pictures that are there."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from efface.cli.output import result, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.cli.sae.training import Request
    from efface.models.vlm import VisionLanguageModel
    from efface.sae.config import SAETrainConfig

ROUND = 256
"""Pictures of a round."""
HELD_OUT = 8
"""Of so many pictures one is kept for the figures at the end."""


def train_on_pictures(request: Request, config: SAETrainConfig, vlm: VisionLanguageModel) -> None:
    """Train autoencoders on what the model reads of pictures, and say what came of it.

    Raises:
        UsageError: no folder of pictures was named, or labels are asked for.
    """
    from efface.cli.sae.training import plot_curve, quality_rows, say_figures
    from efface.io.images import read_picture
    from efface.io.picture_folder import pictures_in
    from efface.models.vlm import PROJECTOR
    from efface.sae.image_stream import ImageStream
    from efface.sae.quality import quality
    from efface.sae.train import train

    if request.pictures is None:
        raise UsageError("a vision-language model draws no pictures: name a folder of them (--pictures).")
    if config.supervised != "none":
        raise UsageError("training with labels is of models that draw pictures: leave --supervised out.")
    sites = [vlm.site(name) for name in request.sites or (PROJECTOR,)]
    every = [read_picture(file.path) for file in pictures_in(request.pictures)]
    kept = [picture for number, picture in enumerate(every) if number % HELD_OUT or len(every) < HELD_OUT]
    count = min(request.images or ROUND, len(kept))
    stream = ImageStream(vlm, kept, sites, count=count, seed=config.seed)
    notes = {"model": vlm.name, "pictures": len(kept), "images": count}
    decisions = {"model": vlm.name, "device": str(vlm.device), "sites": stream.names, "pictures": len(kept)}
    decisions |= {name: value for name, value in asdict(config).items() if name != "steps"}
    say_decisions([(name, str(value)) for name, value in (decisions | {"iterations": config.steps}).items()])
    if request.plan:
        result(decisions, as_json=request.json, rows=[("pictures", str(len(kept)))])
        return
    with ProgressBar(f"training {', '.join(stream.names)}") as progress:

        def report(line: dict[str, Any]) -> None:
            say_figures(line)
            progress((line["step"] + 1) / config.steps, f"iteration {line['step'] + 1} of {config.steps}")

        saes = train(stream, config, request.output, report=report, notes=notes, device=vlm.device)
    plot_curve(request.output)
    data: dict[str, Any] = {"folder": str(request.output), "sites": {}}
    held = [picture for number, picture in enumerate(every) if number % HELD_OUT == 0]
    if request.quality:
        for site in sites:
            data["sites"][site.name] = quality(saes[site.name], vlm.features(held, site).flatten(0, 1))._asdict()
    result(data, as_json=request.json, rows=quality_rows(data))
