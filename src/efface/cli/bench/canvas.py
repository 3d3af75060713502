"""UnlearnCanvas's protocol on the embedded emoji canvas: every benchmark object and style, UA / IRA / CRA."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from efface.cli.output import console, say
from efface.erasers import METHODS
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.bench.engine import Progress
    from efface.model import Model


@dataclass(frozen=True)
class Request:
    """Erase every concept by every method, draw all prompts, and print the table; goes on where it stopped."""

    method: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An eraser, once for each; all of them by default."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("canvas-run")
    """Folder of the run."""
    seeds: int = 2
    """Pictures of every prompt (UnlearnCanvas: 5)."""
    quick: bool = False
    """A quarter of the concepts, a third of the prompts, one seed."""
    plan: bool = False
    """Only say what it will cost."""
    table: Literal["markdown", "csv", "json"] = "markdown"
    """Form of the table."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = tyro.cli(Request, args=args, prog="efface bench canvas", description=__doc__)
    unknown = [name for name in request.method if name not in METHODS]
    if unknown:
        raise UsageError(f"the method {unknown[0]!r} is unknown; expected one of: {', '.join(METHODS)}.")
    from efface.bench import tables
    from efface.bench.protocols.canvas import Canvas, Plan, unerased
    from efface.loading import load
    from efface.model import Model

    plan = Plan(tuple(request.method) or METHODS, request.seeds, request.quick)
    model = Model(load("emoji"))
    rate = _rate(model)
    say(f"{plan.pictures:,} pictures, about {plan.pictures * rate / 60:.0f} minutes at {rate:.2f} s a picture")
    if request.plan:
        print(json.dumps({"pictures": plan.pictures, "seconds": plan.pictures * rate}))
        return
    canvas = Canvas(model, plan, request.output)
    canvas.run(_reporter(), say)
    found, own = tables.rows(canvas.lines()), {k: v._asdict() for k, v in unerased(canvas).items()}
    canvas.ledger.close()
    if request.json or request.table == "json":
        print(json.dumps({"unerased": own, "rows": found}))
        return
    say("unerased: " + ", ".join(f"{name} {value['value']:.1%}" for name, value in own.items()))
    console.print(
        tables.markdown(found) if request.table == "markdown" else tables.as_csv(found), markup=False, soft_wrap=True
    )


def _rate(model: Model) -> float:
    """Seconds a picture, measured on one small batch."""
    from efface.canvas import GUIDANCE, STEPS

    started = time.perf_counter()
    model.draw(["a cat in noto style"] * 8, seeds=range(8), steps=STEPS, guidance=GUIDANCE)
    return (time.perf_counter() - started) / 8


def _reporter() -> Progress:
    """Says how far the run is, at most every ten seconds."""
    state = {"began": time.monotonic(), "said": time.monotonic()}

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        if total and (now - state["said"] > 10 or done == total):
            state["said"] = now
            left = (now - state["began"]) / max(1, done) * (total - done)
            say(f"{done} of {total} units, {left / 60:.0f} minutes left")

    return report
