"""What the protocols of a user's model share: their options, saying the cost, running, and printing the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from efface.bench.engines import Engine
from efface.cli.arguments import parse_parts
from efface.cli.bench.options import OnModel, Shared, check
from efface.cli.output import console, say, say_decisions
from efface.cli.progress import ProgressBar

if TYPE_CHECKING:
    from efface.bench.observer import Observer
    from efface.bench.protocols.base import Benchmark, Drawing
    from efface.bench.protocols.run import Run
    from efface.bench.table import Row


Request = TypeVar("Request", bound=OnModel)
Build = Callable[[Request, Shared], "Benchmark"]
"""Makes the protocol of a request; a function of a module, so that actors on other machines can call it too."""


def main(kind: type[Request], build: Build[Request], args: list[str], *, name: str, summary: str | None) -> None:
    """Run the command of a protocol."""
    parts = {"protocol": kind, "run": Shared, "engine": Engine}
    request, shared, engine = parse_parts(parts, args, prog=f"efface bench {name}", description=summary)
    check(shared)
    shared = replace(shared, output=(shared.output or Path(f"{name}-run")).absolute())
    from efface.bench.protocols.estimate import cost
    from efface.models.timing import model_bytes

    run = _run(request, shared, build)
    erasures = run.protocol.erasures if shared.plan and not run.erasures else None
    expected = cost(run, erasures=erasures, devices=shared.gpus if shared.plan else engine.devices)
    say_decisions(_decided(run))
    say(str(expected))
    if shared.plan:
        print(json.dumps(expected.to_json() | {"model_bytes": model_bytes(run.model.pipeline)}))
        return
    for note in run.protocol.notes():
        say(note)
    with ProgressBar(f"running {name}") as progress:
        run.run(progress, on=_runner(request, shared, engine, build, run))
    rows = run.rows()
    run.ledger.close()
    data = _data(run, request, rows)
    _print(data, rows, shared)


def _decided(run: Run) -> list[tuple[str, str]]:
    """The model, where, how its pictures are drawn and what looks at them."""
    from efface.api.decisions import about_model
    from efface.report.decisions import drawing_rows

    looking = [f"{name}: {observer.name}" for name, observer in run.observers.items() if observer.name]
    drawn = asdict(run.drawing)
    erasures = [f"{erasure.name} ({', '.join(erasure.concepts)})" for erasure in run.erasures]
    decisions = about_model(run.model.pipeline, drawn.pop("side")) | drawn
    return drawing_rows(decisions | {"erasures": erasures, "seen by": looking})


def _run(request: Request, shared: Shared, build: Build[Request]) -> Run:
    from efface.bench.protocols.base import load_erasures
    from efface.bench.protocols.run import Run
    from efface.models.model import Model

    protocol = build(request, shared)
    erasures = load_erasures(shared.erasure, shared.concept)
    assert shared.output is not None
    drawing = _drawing(protocol, shared)
    model = Model(shared.load(request.model))
    return Run(model, protocol, erasures, shared.output, drawing=drawing, save=shared.save_images)


def _drawing(protocol: Benchmark, shared: Shared) -> Drawing:
    """The published settings with those that the user gave."""
    own = {name: getattr(shared, name) for name in ("steps", "guidance", "batch")} | {"side": shared.size}
    return replace(protocol.drawing, **{name: value for name, value in own.items() if value is not None})


def _runner(request: Request, shared: Shared, engine: Engine, build: Build[Request], run: Run) -> Any:
    """How units are done on another engine; None in this process, where judges are already open."""
    if engine.engine == "process":
        return None
    from efface.bench.engines import run_on
    from efface.bench.worker_spec import WorkerSpec

    spec = WorkerSpec(request.model, partial(_watchers, request, shared, build), run.files, shared.loading())
    return lambda units, ledger, progress: run_on(engine, spec, units, ledger, progress, model=run.model)


def _watchers(request: Request, shared: Shared, build: Build[Request]) -> Mapping[str, Observer]:
    """Opens what looks at pictures, in another process."""
    from efface.bench.protocols.base import load_erasures
    from efface.bench.protocols.run import watchers

    protocol = build(request, shared)
    erasures = load_erasures(shared.erasure, shared.concept) if shared.save_images else []
    assert shared.output is not None
    return watchers(protocol, erasures, shared.output, _drawing(protocol, shared), shared.save_images)


def _data(run: Run, request: OnModel, rows: list[Row]) -> dict[str, Any]:
    """Everything about a run's table, which also stands in its folder as `table.json`."""
    from efface.bench.table import as_json
    from efface.io.atomic import write_atomically

    published, drawing = run.protocol.drawing, run.drawing
    differences = [
        f"{name} {getattr(drawing, name):g}, published: {getattr(published, name):g}"
        for name in ("steps", "guidance")
        if getattr(drawing, name) != getattr(published, name)
    ]
    data = {
        "protocol": run.protocol.name,
        "model": request.model,
        "pictures": len(run.protocol.samples),
        "drawing": asdict(drawing),
        "seen_by": {name: observer.name for name, observer in run.observers.items()},
        "notes": run.protocol.notes() + differences,
        "rows": as_json(rows),
    }
    write_atomically(run.folder / "table.json", json.dumps(data, indent=1).encode())
    return data


def _print(data: dict[str, Any], rows: list[Row], shared: Shared) -> None:
    from efface.bench.table import as_csv, markdown

    seen_by = [f"{name}: {version}" for name, version in data["seen_by"].items()]
    if shared.json or shared.format == "json":
        print(json.dumps(data))
    elif shared.format == "csv":
        console.print(as_csv(rows, "; ".join(seen_by)), markup=False, soft_wrap=True, end="")
    else:
        drawn = (
            "{pictures:,} pictures of each model, steps {steps}, guidance {guidance:g} where prompts bring none".format(
                **data, **data["drawing"]
            )
        )
        notes = [drawn, *seen_by, *data["notes"]]
        console.print("\n".join([markdown(rows), "", *(f"- {note}" for note in notes)]), markup=False, soft_wrap=True)
