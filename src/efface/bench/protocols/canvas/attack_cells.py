"""What attacks on the erasures of a run came to, read from its folder."""

from __future__ import annotations

from pathlib import Path

from efface.attacks import ATTACKS
from efface.bench.table import Cell
from efface.redteam.findings import Findings


def cells_of(folder: Path, stem: str) -> dict[str, Cell]:
    """What attacks on one erasure of a run came to: ASR, what each gained, evaluations a success, and its sanity."""
    cells: dict[str, Cell] = {}
    for findings in _findings(folder, stem):
        cells |= {f"ASR {findings.attack}": findings.asr, f"{findings.attack} gained": findings.gained}
        if findings.per_success:
            cells[f"{findings.attack} cost"] = findings.per_success.denoiser + findings.per_success.encoder
        if findings.sanity:
            rates = [rate for rate in (findings.sanity.unerased, findings.sanity.weak) if rate is not None]
            cells[f"{findings.attack} sanity"] = min(rates, key=lambda rate: rate.value)
    return cells


def broken_in(folder: Path) -> list[str]:
    """A sentence for each attack that failed where any attack must succeed."""
    stems = sorted(path.name for path in (folder / "attacks").glob("*"))
    broken = [f for stem in stems for f in _findings(folder, stem) if f.broken]
    concepts = {name: dict.fromkeys(f.concept for f in broken if f.attack == name) for name in ATTACKS}
    return [
        f"{name} is broken on {', '.join(some)}: its failures there say nothing about robustness."
        for name, some in concepts.items()
        if some
    ]


def _findings(folder: Path, stem: str) -> list[Findings]:
    """Findings of one erasure's attacks that are at their end."""
    paths = [folder / "attacks" / stem / name / "findings.json" for name in ATTACKS]
    findings = [Findings.load(path) for path in paths if path.exists()]
    return [f for f in findings if f.complete]
