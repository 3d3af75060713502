"""What the protocols of a user's model share: their options, saying the cost, running, and printing the table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from efface.bench.engines import Engine
from efface.cli.bench.options import OnModel, Shared, check
from efface.cli.output import console, say

if TYPE_CHECKING:
    from efface.bench.engine import Progress
    from efface.bench.observer import Observer
    from efface.bench.protocols.base import Drawing, Protocol
    from efface.bench.protocols.run import Run
    from efface.bench.table import Line


Asked = TypeVar("Asked", bound=OnModel)
Build = Callable[[Asked, Shared], "Protocol"]
"""Makes the protocol of a request; a function of a module, so that actors on other machines can call it too."""


def main(kind: type[Asked], build: Build[Asked], args: list[str], *, name: str, summary: str | None) -> None:
    """Run the command of a protocol."""
    combined = tyro.conf.OmitArgPrefixes[tuple[kind, Shared, Engine]]  # type: ignore[valid-type]
    request, shared, engine = tyro.cli(combined, args=args, prog=f"efface bench {name}", description=summary)
    check(shared)
    shared = replace(shared, output=(shared.output or Path(f"{name}-run")).absolute())
    from efface.bench.protocols.estimate import cost

    run = _run(request, shared, build)
    erasures = run.protocol.erasures if shared.plan and not run.given else None
    expected = cost(run, erasures=erasures, devices=shared.gpus if shared.plan else engine.devices)
    say(str(expected))
    if shared.plan:
        print(json.dumps(expected.to_json()))
        return
    for note in run.protocol.notes():
        say(note)
    run.run(reporter(), on=_runner(request, shared, engine, build, run))
    lines = run.lines()
    run.ledger.close()
    data = _data(run, request, lines)
    _print(data, lines, shared)


def reporter() -> Progress:
    """Says how far the run is, at most every ten seconds."""
    state = {"began": time.monotonic(), "said": time.monotonic(), "done": 0}

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if done != state["done"] and (now - state["said"] > 10 or done == total):
            state.update(said=now, done=done)
            left = (now - state["began"]) / max(1, done) * (total - done)
            say(f"{done} of {total} units, {left / 60:.0f} minutes left")

    return report


def _run(request: Asked, shared: Shared, build: Build[Asked]) -> Run:
    from efface.bench.protocols.base import load_given
    from efface.bench.protocols.run import Run
    from efface.models.load import load
    from efface.models.model import Model

    protocol = build(request, shared)
    given = load_given(shared.erasure, shared.concept)
    assert shared.output is not None
    drawing = _drawing(protocol, shared)
    return Run(Model(load(request.model)), protocol, given, shared.output, drawing=drawing, save=shared.save_images)


def _drawing(protocol: Protocol, shared: Shared) -> Drawing:
    """The published settings with those that the user gave."""
    own = {name: getattr(shared, name) for name in ("steps", "guidance", "side", "batch")}
    return replace(protocol.drawing, **{name: value for name, value in own.items() if value is not None})


def _runner(request: Asked, shared: Shared, engine: Engine, build: Build[Asked], run: Run) -> Any:
    """How units are done on another engine; None in this process, where judges are already open."""
    if engine.engine == "process":
        return None
    from efface.bench.engines import run_on
    from efface.bench.worker_spec import Recipe

    recipe = Recipe(request.model, partial(_watchers, request, shared, build), run.files)
    return lambda units, ledger, report: run_on(engine, recipe, units, ledger, report, model=run.model)


def _watchers(request: Asked, shared: Shared, build: Build[Asked]) -> Mapping[str, Observer]:
    """Opens what looks at pictures, in another process."""
    from efface.bench.protocols.base import load_given
    from efface.bench.protocols.run import watchers

    protocol = build(request, shared)
    given = load_given(shared.erasure, shared.concept) if shared.save_images else []
    assert shared.output is not None
    return watchers(protocol, given, shared.output, _drawing(protocol, shared), shared.save_images)


def _data(run: Run, request: OnModel, lines: list[Line]) -> dict[str, Any]:
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
        "pictures": len(run.protocol.shots),
        "drawing": asdict(drawing),
        "seen_by": {name: observer.name for name, observer in run.observers.items()},
        "notes": run.protocol.notes() + differences,
        "rows": as_json(lines),
    }
    write_atomically(run.folder / "table.json", json.dumps(data, indent=1).encode())
    return data


def _print(data: dict[str, Any], lines: list[Line], shared: Shared) -> None:
    from efface.bench.table import as_csv, markdown

    seen_by = [f"{name}: {version}" for name, version in data["seen_by"].items()]
    if shared.json or shared.table == "json":
        print(json.dumps(data))
    elif shared.table == "csv":
        console.print(as_csv(lines, "; ".join(seen_by)), markup=False, soft_wrap=True, end="")
    else:
        drawn = (
            "{pictures:,} pictures of each model, steps {steps}, guidance {guidance:g} where prompts bring none".format(
                **data, **data["drawing"]
            )
        )
        notes = [drawn, *seen_by, *data["notes"]]
        console.print("\n".join([markdown(lines), "", *(f"- {note}" for note in notes)]), markup=False, soft_wrap=True)
