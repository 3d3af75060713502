"""Attacks on the erasures of a run of the canvas's protocol, kept in its folder under `attacks/`: they may be added later."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from efface.bench.protocols.canvas.targets import concepts_of
from efface.erasures import Erasure
from efface.io.progress import Progress, silent
from efface.redteam.findings import Sanity

if TYPE_CHECKING:
    from efface.api.red_team import RedTeam
    from efface.bench.protocols.canvas.run import Canvas


def attack_all(
    canvas: Canvas,
    red_team: RedTeam,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Attack every erasure of a run in mode `single`; what its folder holds is not done again.

    Raises:
        UsageError: its folder holds attacks of another budget, or with other options.
    """
    rows = [(target, method) for target in canvas.plan.targets for method in canvas.plan.methods]
    sanity_cache: dict[tuple[str, str], Sanity] = {}
    for number, (target, method) in enumerate(rows):
        path = canvas.erasure(method, target.edits[0])
        (concept,) = concepts_of(target.edits[0])

        def tell(done: float, line: str, number: int = number, stem: str = path.stem) -> None:
            progress((number + done) / len(rows), f"{stem}, {line}")

        results = red_team.run(
            canvas.model.pipeline,
            [Erasure.load(path)],
            concept,
            canvas.folder / "attacks" / path.stem,
            sanity_cache=sanity_cache,
            progress=tell,
        )
        for result in results:
            if result.findings is None:
                say(f"{path.stem}: {result.attack} was {result.line}")
