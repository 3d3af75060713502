"""Attacks on the erasures of a run of the canvas's protocol, kept in its folder under `attacks/`: they may be added later."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from efface.bench.protocols.canvas.targets import concepts_of
from efface.erasures import Erasure
from efface.redteam.findings import Sanity
from efface.redteam.run import Report

if TYPE_CHECKING:
    from efface.api.red_team import RedTeam
    from efface.bench.protocols.canvas.run import Canvas


def attack_all(
    canvas: Canvas,
    team: RedTeam,
    report: Report = lambda done, line: None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Attack every erasure of a run in mode `single`; what its folder holds is not done again.

    Raises:
        UsageError: its folder holds attacks of another budget, or with other options.
    """
    rows = [(target, method) for target in canvas.plan.targets for method in canvas.plan.methods]
    known: dict[tuple[str, str], Sanity] = {}
    for number, (target, method) in enumerate(rows):
        path = canvas.erasure(method, target.edits[0])
        (concept,) = concepts_of(target.edits[0])
        attacked = team.run(
            canvas.model.pipeline, [Erasure.load(path)], concept, canvas.folder / "attacks" / path.stem, known=known,
            report=lambda done, line, n=number, p=path: report((n + done) / len(rows), f"{p.stem}, {line}"),
        )  # fmt: skip
        for found in attacked:
            if found.findings is None:
                say(f"{path.stem}: {found.attack} was {found.line}")
