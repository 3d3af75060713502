"""Training on layers of text encoders, from prompts alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from efface.cli.output import result, say, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError
from efface.io.progress import duration

if TYPE_CHECKING:
    from efface.cli.sae.training import Request
    from efface.sae.config import SAETrainConfig

PROMPTS = 2048
"""Prompts of a round."""
HELD_OUT = 10**6
"""Number of the round on which autoencoders are measured."""


def is_text(patterns: Sequence[str]) -> bool:
    """Whether patterns name modules of text encoders.

    Raises:
        UsageError: some do and others do not.
    """
    from efface.families.sites import TEXT

    text = [pattern.startswith(TEXT) for pattern in patterns]
    if any(text) and not all(text):
        raise UsageError(
            f"{patterns[text.index(True)]} is in a text encoder and {patterns[text.index(False)]} is not: train them in two runs, one "
            "from prompts and one from pictures."
        )
    return all(text) and bool(text)


def train_on_text(request: Request, config: SAETrainConfig, pipeline: Any, patterns: tuple[str, ...]) -> None:
    """Train autoencoders on the prompts' positions, and say what came of it."""
    from efface.api.decisions import about_model
    from efface.cli.sae.common import prompts_named
    from efface.cli.sae.training import plot_curve, quality_rows, say_figures, trained_on
    from efface.models.model import Model
    from efface.report.decisions import drawing_rows
    from efface.sae.files import load_sae
    from efface.sae.harvest import sites_of
    from efface.sae.quality import quality
    from efface.sae.text_stream import TextStream
    from efface.sae.train import train

    if config.supervised != "none":
        raise UsageError(
            "labels say what pictures show, which layers of text encoders do not see: train those without --supervised."
        )
    model = Model(pipeline)
    prompts = prompts_named(request.prompts, pipeline)
    count = request.images or PROMPTS
    stream = TextStream(model, prompts, sites_of(model, patterns), count=count, seed=config.seed)
    decided = about_model(pipeline, None) | {"sites": stream.names, "prompts": len(prompts), "prompts_a_round": count}
    decided |= {name: value for name, value in asdict(config).items() if name != "steps"} | {"iterations": config.steps}
    say_decisions(drawing_rows(decided))
    began = time.perf_counter()
    rows = len(next(iter(stream.round(0).values())))
    rounds = -(-config.steps * config.batch // max(1, int(rows * config.passes)))
    seconds = (time.perf_counter() - began) * rounds
    say(f"{rows:,} vectors a round, about {duration(seconds)} of encoding; no picture is drawn")
    if request.plan:
        data = decided | {"vectors_a_round": rows, "rounds": rounds, "seconds": round(seconds, 1)}
        result(data, as_json=request.json, rows=[(k, str(data[k])) for k in ("vectors_a_round", "rounds", "seconds")])
        return
    notes = {"model": request.model, "text": {"prompts": len(prompts), "prompts_a_round": count}}
    if request.start is not None:
        notes["start"] = str(request.start)
    with ProgressBar(f"training {', '.join(stream.names)}") as progress:

        def report(line: dict[str, Any]) -> None:
            say_figures(line)
            progress((line["step"] + 1) / config.steps, f"iteration {line['step'] + 1} of {config.steps}")

        start = None if request.start is None else {name: load_sae(request.start / name) for name in stream.names}
        saes = train(
            stream, config, request.output, report=report, notes=notes, device=trained_on(pipeline), start=start
        )
    plot_curve(request.output)
    data = {"folder": str(request.output), "sites": {}}
    if request.quality:
        held_out = stream.round(HELD_OUT)
        data["sites"] = {name: quality(sae.cpu(), held_out[name])._asdict() for name, sae in saes.items()}
    result(data, as_json=request.json, rows=quality_rows(data))
