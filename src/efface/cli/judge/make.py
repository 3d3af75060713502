"""Make a judge whose verdicts are sums of a few named parts of another judge's features; resumes when run again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.arguments import parse_parts
from efface.cli.model_options import HEADING, DrawingOptions
from efface.cli.output import result, say_decisions
from efface.cli.progress import ProgressBar
from efface.heads.config import HeadConfig


@dataclass(frozen=True)
class Request:
    """Draw labelled pictures and fit a sparse head on a judge's features of them."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    judge: tyro.conf.Positional[str]
    """Whose features are read: an embedded model's own judge, or clip:FOLDER:CLASS,CLASS."""
    kind: str | None = None
    """Kind of the concepts that are told; by default the one that the judge knows."""
    concepts: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A JSON file {"kind": {"concept": ["prompt", …]}}; the canvas's benchmark by default."""
    seeds: int = 2
    """Pictures of every prompt; every fifth of those that show the same is held out."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    parts: int = 128
    """Parts into which features are factorised, at most (UCBM: 128)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = Path("judge.safetensors")
    """The judge's file; the pictures are kept in a folder beside it."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    parts = {"general": Request, HEADING: DrawingOptions, "head": HeadConfig}
    request, options, config = parse_parts(parts, args, prog="efface judge make", description=__doc__)
    from efface.api.decisions import about_drawing
    from efface.api.named_judge import named_parts
    from efface.cli.sae.common import labelled
    from efface.report.decisions import drawing_rows

    pipeline = options.load(request.model)
    samples, kinds = labelled(request.concepts, request.seeds, pipeline, options.seed)
    sampling = options.sampling(request.steps, request.guidance)
    say_decisions(drawing_rows(about_drawing(pipeline, sampling, seeds=request.seeds, judge=request.judge, k=config.k)))
    with ProgressBar(f"drawing pictures of {len(kinds)} concepts") as progress:
        made = named_parts(
            pipeline,
            request.judge,
            samples,
            kinds,
            kind=request.kind,
            config=config,
            parts=request.parts,
            sampling=sampling,
            folder=request.output.with_suffix("") / "pictures",
            progress=progress,
        )
    request.output.parent.mkdir(parents=True, exist_ok=True)
    made.save(request.output)
    named = sum(name.named for name in made.names)
    data = {
        "judge": f"named:{request.output}",
        "kind": made.kind,
        "classes": list(made.head.concepts),
        "parts": len(made.names),
        "named": named,
        "read": len(made.head.units),
        "accuracy": made.accuracy.share,
        "held_out": made.accuracy.rows,
        "active": made.accuracy.active,
    }
    rows = [
        ("judge", f"named:{request.output}"),
        (made.kind, str(made.accuracy)),
        ("parts", f"{len(made.names)}, of which {len(made.head.units)} are read and {named} have a name"),
    ]
    result(data, as_json=request.json, rows=rows)
