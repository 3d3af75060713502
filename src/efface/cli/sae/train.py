"""Train an autoencoder for every site, from pictures drawn meanwhile, from prompts or from shards; resumes when run again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.arguments import HIDDEN, named_options, parse_parts
from efface.cli.model_options import HEADING, DrawingOptions, with_pictures
from efface.cli.output import result, say, say_decisions
from efface.cli.progress import ProgressBar
from efface.cli.sae.training import Request
from efface.errors import UsageError
from efface.io.progress import duration
from efface.sae.config import SAETrainConfig

if TYPE_CHECKING:
    from efface.cli.sae.common import Labels
    from efface.sae.autoencoder import SparseAutoencoder
    from efface.sae.harvest import HarvestCost
    from efface.sae.stream import ActivationStream


RENAMED = {"steps": "iterations", "batch": "vectors", "seed": HIDDEN}
"""Field of the training -> its option: `--steps` always means denoising steps, `--batch` pictures and `--seed` the first one."""
SHARE = 4
"""Part of free memory that a round's activations take by default: one over this."""
MOST = 128
"""Pictures of a round where memory holds more; with labels, of which half are, twice as many."""


def main(args: list[str]) -> None:
    """Run the command."""
    parts = {"general": Request, HEADING: DrawingOptions, "training": SAETrainConfig}
    request, options, config = parse_parts(parts, args, prog="efface sae train", description=__doc__, renamed=RENAMED)
    named = with_pictures(named_options(config, args, RENAMED), config, options)
    config = replace(config, **named)
    from efface.cli.sae.common import harvest_decisions, labels_named, sampling_of, sites_named
    from efface.cli.sae.train_pictures import train_on_pictures
    from efface.cli.sae.train_text import is_text, train_on_text
    from efface.cli.sae.training import plot_curve, quality_rows, say_figures, trained_on
    from efface.models.model import Model
    from efface.models.timing import model_bytes
    from efface.models.vlm import VisionLanguageModel
    from efface.profiles.base import profile_of
    from efface.report.decisions import drawing_rows
    from efface.sae.files import load_sae
    from efface.sae.harvest import HarvestConfig
    from efface.sae.shards import Shards
    from efface.sae.stream import ActivationStream
    from efface.sae.train import train

    pipeline = options.load(request.model, stored=True)
    if isinstance(pipeline, VisionLanguageModel):
        train_on_pictures(request, config, pipeline)
        return
    patterns, profile = sites_named(request.sites, pipeline), profile_of(pipeline)
    text = is_text(patterns) and request.shards is None
    settings = {} if config.as_published else profile.sae_text_training() if text else profile.sae_training()
    config = replace(config, **{name: value for name, value in settings.items() if name not in named})
    if text:
        train_on_text(request, config, pipeline, patterns)
        return
    asked = sampling_of(pipeline, request.steps, request.guidance, options) | {"seed": config.seed}
    harvest = HarvestConfig(patterns, **asked)
    labels = labels_named(request.concepts, pipeline) if config.supervised != "none" else None
    prompts = ["a"] if request.shards else _prompts(request, pipeline, labels)
    stream = ActivationStream(Model(pipeline), prompts, harvest, images=request.images or 1)
    stream.shows, stream.kinds = labels or ({}, {})
    source: Any = Shards(request.shards) if request.shards else stream
    notes: dict[str, Any] = {"model": request.model, "harvest": harvest.to_json()}
    if request.start is not None:
        notes["start"] = str(request.start)
    if not request.shards:
        stream.images = notes["images"] = request.images or _images(stream, request.output)
    decisions = harvest_decisions(pipeline, harvest) | {"sites": list(source.names), "images": stream.images}
    decisions |= {name: value for name, value in asdict(config).items() if name != "steps"} | {
        "iterations": config.steps
    }
    say_decisions(drawing_rows(decisions | {"steps": harvest.steps}))
    cost = None if request.shards else expected_cost(stream, config)
    if cost is not None:
        say(
            f"about {cost.images:,} pictures, {duration(cost.seconds)} of drawing; {held_in_memory(stream, config)}; "
            "nothing on disk but the run"
        )
    if request.plan:
        costs = {} if cost is None else {"pictures": cost.images, "seconds": round(cost.seconds, 1)}
        data = decisions | costs | {"model_bytes": model_bytes(pipeline)}
        result(data, as_json=request.json, rows=[(k, str(data[k])) for k in (*costs, "model_bytes")])
        return
    with ProgressBar(f"training {', '.join(source.names)}") as progress:

        def report(line: dict[str, Any]) -> None:
            say_figures(line)
            progress((line["step"] + 1) / config.steps, f"iteration {line['step'] + 1} of {config.steps}")

        start = None if request.start is None else {name: load_sae(request.start / name) for name in source.names}
        coders = train(
            source, config, request.output, report=report, notes=notes, device=trained_on(pipeline), start=start
        )
    plot_curve(request.output)
    data: dict[str, Any] = {"folder": str(request.output), "sites": {}}
    if request.quality and not request.shards:
        data["sites"] = _quality(stream, coders, prompts)
    result(data, as_json=request.json, rows=quality_rows(data))


def _prompts(request: Request, pipeline: Any, labels: Labels | None) -> list[str]:
    """What is drawn beside labelled prompts; those alone where nothing else was named and the model knows nothing else."""
    from efface.cli.sae.common import prompts_named

    try:
        return prompts_named(request.prompts, pipeline)
    except UsageError:
        if labels is None or request.prompts is not None:
            raise
        return list(labels.shows)


def expected_cost(stream: ActivationStream, config: SAETrainConfig) -> HarvestCost:
    """What all rounds of a run draw, and how long that takes, measured on one step of one batch."""
    from efface.sae.harvest import harvest_cost

    one = harvest_cost(stream.model, stream.config, stream.images)
    used = max(1, int(one.vectors * config.passes))
    rounds = -(-config.steps // (used // min(config.batch, used)))
    return one._replace(images=rounds * one.images, vectors=rounds * one.vectors, seconds=rounds * one.seconds)


def _images(stream: ActivationStream, run: Path) -> int:
    """Pictures of a round: those of the run that is resumed, or as many as a share of free memory holds the activations of."""
    from efface.io.memory import free_bytes
    from efface.sae.harvest import bytes_of

    try:
        return int(json.loads((run / "run.json").read_text())["notes"]["images"])
    except (OSError, ValueError, KeyError, TypeError):
        most = 2 * MOST if stream.shows else MOST
        return max(1, min(most, free_bytes("cpu") // SHARE // bytes_of(stream.model, stream.config, 1, stream.shapes)))


def held_in_memory(stream: ActivationStream, config: SAETrainConfig) -> str:
    """The gigabytes that a run takes beside the model, in words."""
    from efface.sae.harvest import bytes_of

    held = bytes_of(stream.model, stream.config, stream.images, stream.shapes)
    steps = len(range(0, stream.config.steps, stream.config.every))
    vectors = min(config.batch, stream.images * steps * max(tokens for tokens, _ in stream.shapes.values()))
    # A site keeps two matrices with two moments each; two gradients and a batch's product are shared.
    latents = {width: config.latents or config.expansion * width for _, width in stream.shapes.values()}
    sizes = [latents[width] * width for _, width in stream.shapes.values()]
    training = 4 * (6 * sum(sizes) + 2 * max(sizes) + vectors * max(latents.values()))
    return (
        f"{held / 1e9:.1f} GB for the activations of {stream.images} pictures and {training / 1e9:.1f} GB for training, "
        "beside the model"
    )


def _quality(stream: ActivationStream, coders: dict[str, SparseAutoencoder], prompts: list[str]) -> dict[str, Any]:
    """Figures on pictures that training never drew."""
    from efface.models.mapped import released
    from efface.sae.quality import denoising_losses, finished_latents, quality

    held_out = stream.round(10**6)
    count = min(32, stream.images)
    some = prompts[:: max(1, len(prompts) // count)][:count]
    with released(stream.model.components().values()):
        clean = finished_latents(stream.model, some, range(10**6, 10**6 + len(some)), stream.config)
        losses = denoising_losses(stream.model, clean.repeat(4, 1, 1, 1), some * 4, coders)
    return {
        name: quality(coder, held_out[name])._asdict() | {"rise": losses[name] / losses["plain"] - 1}
        for name, coder in coders.items()
    }
