"""What attacks on the erasures of a run came to, read from its folder."""

from __future__ import annotations

from pathlib import Path

from efface.attacks import ATTACKS
from efface.bench.table import Cell
from efface.redteam.findings import Findings


def cells_of(folder: Path, stem: str) -> dict[str, Cell]:
    """What attacks on one erasure of a run came to: ASR, what each gained, evaluations a success, and its sanity."""
    cells: dict[str, Cell] = {}
    for found in _findings(folder, stem):
        cells |= {f"ASR {found.attack}": found.asr, f"{found.attack} because": found.gained}
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
