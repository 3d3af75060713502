"""UnlearnCanvas's protocol on the embedded emoji canvas: every benchmark object and style, UA / IRA / CRA."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from efface.bench.engines import Engine
from efface.cli.model_options import parse_on_model
from efface.cli.output import console, say, say_decisions
from efface.cli.progress import ProgressBar
from efface.erasers import ERASERS
from efface.errors import UsageError

USUAL = ("rece", "uce", "preserve", "project", "saeuron", "anchored")
"""Methods that are measured where none is named."""
USUAL_OF_LISTS = ("joint", "gated", "uce", "rece")
"""In mode `many`."""


@dataclass(frozen=True)
class Request(Engine):
    """Erase every concept by every method, draw all prompts, and print the table; goes on where it stopped."""

    method: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An eraser, once for each; by default those whose erasures take seconds: rece, uce, preserve, project, saeuron, anchored, and
    of lists joint, gated, uce, rece."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("canvas-run")
    """Folder of the run."""
    mode: Literal["single", "pairs", "sequential", "together", "many"] = "single"
    """`single`: 20 objects and 9 styles, each alone; `pairs`: 20 objects in one style each; `sequential`: six objects, then
    six styles, one after the other; `together`: ten objects, and eight styles, by one erasure; `many`: random lists of the 64
    objects, with half of the others unknown to the erasure."""
    counts: tuple[int, ...] = ()
    """Objects that are erased at once in mode `many`; 1 5 10 20 40 by default."""
    draws: int = 1
    """Random lists of each length in mode `many`; those of one draw are nested."""
    seeds: int = 2
    """Pictures of every prompt (UnlearnCanvas: 5)."""
    quick: bool = False
    """A fifth of the concepts, a quarter of the prompts, one seed; in mode `many` 5 and 20 objects, one style, one seed."""
    attacks: tuple[str, ...] = ()
    """Attacks to run on every erasure (see `efface attack --help`), or `all`; a finished run may be given them later."""
    budget: str | None = None
    """How far each attack goes: published, canvas or quick; quick in a quick run, canvas in others."""
    samples: int = 4
    """Samples (a prompt and a seed each) that each attack is given."""
    words: bool = True
    """In mode `single` also ask by held-out synonyms and descriptions, for two objects in a picture and for places alone."""
    save_images: bool = False
    """Keep the pictures of what is still to be drawn in the run's folder, one PNG of 16 pictures a unit."""
    plan: bool = False
    """Only say what it will cost."""
    format: Literal["markdown", "csv", "json"] = "markdown"
    """Form of the table."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, options = parse_on_model(Request, args, prog="efface bench canvas", description=__doc__)
    for name in request.method:
        ERASERS.load(name)
    if request.seeds < 1:
        raise UsageError(f"seeds is {request.seeds}; expected at least 1.")
    from efface.api.decisions import about_drawing
    from efface.api.red_team import RedTeam
    from efface.bench import table
    from efface.bench.protocols.canvas.attack import attack_all
    from efface.bench.protocols.canvas.attack_cells import broken_in
    from efface.bench.protocols.canvas.estimate import cost
    from efface.bench.protocols.canvas.plan import Plan
    from efface.bench.protocols.canvas.run import Canvas
    from efface.bench.protocols.canvas.words import ask_all, exam_of, pictures_of
    from efface.models.model import Model
    from efface.redteam.samples import Samples
    from efface.report.decisions import drawing_rows

    usual = "quick" if request.quick else "canvas"
    red_team = None
    if request.attacks:
        red_team = RedTeam(request.attacks, request.budget or usual, Samples(request.samples))
    if red_team and request.mode != "single":
        raise UsageError(f"attacks want concepts erased one at a time; the mode is {request.mode!r}, use single.")
    methods = tuple(dict.fromkeys(request.method)) or (USUAL_OF_LISTS if request.mode == "many" else USUAL)
    plan = Plan(
        methods=methods,
        seeds=request.seeds,
        quick=request.quick,
        mode=request.mode,
        first_seed=options.seed or 0,
        side=options.size,
        counts=request.counts,
        draws=request.draws,
    )
    model = Model(options.load("emoji"))
    expected = cost(model, plan, request.output, devices=request.devices, sheets=request.save_images)
    attacked = len(plan.methods) * len(plan.targets) * len(red_team.names) if red_team else 0
    seeds = f"{plan.first_seed} to {plan.first_seed + request.seeds - 1}" if request.seeds > 1 else str(plan.first_seed)
    say_decisions(drawing_rows(about_drawing(model.pipeline, methods=list(plan.methods), mode=plan.mode, seeds=seeds)))
    words = pictures_of(plan, exam_of(model, plan)) if request.words and plan.mode == "single" else 0
    beside = [f"{words} pictures by other words"] if words else []
    beside += [f"{attacked} attacks"] if red_team else []
    say(str(expected) + (f"; beside them {' and '.join(beside)}, whose time is not in it" if beside else ""))
    if request.plan:
        print(json.dumps(expected.to_json() | {"attacks": attacked, "words": words}))
        return
    canvas = Canvas(model, plan, request.output, sheets=request.save_images)
    with ProgressBar("running the canvas") as progress:
        canvas.run(progress, say, request, options.loading())
    if words:
        with ProgressBar("asking by other words") as progress:
            ask_all(canvas, progress)
    if red_team:
        with ProgressBar("attacking") as progress:
            attack_all(canvas, red_team, progress, say)
    remarks = [*broken_in(request.output), *canvas.results.remarks()]
    for sentence in remarks:
        say(sentence)
    rows = canvas.rows()
    canvas.ledger.close()
    if request.json or request.format == "json":
        print(json.dumps({"rows": table.as_json(rows), "notes": remarks}))
        return
    text = table.markdown(rows) if request.format == "markdown" else table.as_csv(rows)
    console.print(text, markup=False, soft_wrap=True)
