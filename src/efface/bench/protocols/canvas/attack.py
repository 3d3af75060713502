"""Attacks on the erasures of a run of the canvas's protocol, kept in its folder under `attacks/`: they may be added later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from efface.attacks import ATTACKS
from efface.bench.protocols.canvas.targets import concepts_of
from efface.bench.table import Cell
from efface.erasures import Erasure
from efface.redteam.findings import Findings, Sanity
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


def cells_of(folder: Path, stem: str) -> dict[str, Cell]:
    """What attacks on one erasure of a run came to: ASR with and because of each, evaluations a success, and its sanity."""
    cells: dict[str, Cell] = {}
    for found in _findings(folder, stem):
        cells |= {f"ASR {found.attack}": found.asr, f"{found.attack} because": found.because}
        if found.per_success:
            cells[f"{found.attack} cost"] = found.per_success.denoiser + found.per_success.encoder
        if found.sanity:
            rates = [rate for rate in (found.sanity.unerased, found.sanity.weak) if rate is not None]
            cells[f"{found.attack} sanity"] = min(rates, key=lambda rate: rate.value)
    return cells


def broken_in(folder: Path) -> list[str]:
    """A sentence for each attack that failed where any attack must succeed."""
    stems = sorted(path.name for path in (folder / "attacks").glob("*"))
    found = [f for stem in stems for f in _findings(folder, stem) if f.broken]
    concepts = {name: dict.fromkeys(f.concept for f in found if f.attack == name) for name in ATTACKS}
    return [
        f"{name} is broken on {', '.join(some)}: its failures there say nothing about robustness."
        for name, some in concepts.items()
        if some
    ]


def _findings(folder: Path, stem: str) -> list[Findings]:
    """Of one erasure, those attacks that are at their end."""
    paths = [folder / "attacks" / stem / name / "findings.json" for name in ATTACKS]
    found = [Findings.load(path) for path in paths if path.exists()]
    return [f for f in found if f.complete]
