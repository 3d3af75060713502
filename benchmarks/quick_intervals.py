"""Do the intervals of a quick run contain what the whole run finds?

    efface bench canvas --method uce --quick -o runs/quick     # under 5 minutes on two idle cores
    efface bench canvas --method uce -o runs/whole             # about half an hour a method
    python benchmarks/quick_intervals.py runs/quick runs/whole

Every cell of a concept that both runs have (rates, drops, intact) counts once; the target is 90%.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import tyro

from efface.bench.leaderboard import FinishedRun, finished
from efface.errors import UsageError
from efface.metrics.rates import Paired, Rate


def cells_of(run: FinishedRun) -> dict[tuple[str, str, str], Rate | Paired]:
    """(method, concept, column) -> a cell with an interval."""
    return {
        (row.method, row.concepts, name): cell
        for row in run.rows
        for name, cell in row.cells.items()
        if isinstance(cell, Rate | Paired) and not math.isnan(cell.low)
    }


def value(cell: Rate | Paired) -> float:
    """What a cell says."""
    return cell.difference if isinstance(cell, Paired) else cell.value


def main(quick: tyro.conf.Positional[Path], whole: tyro.conf.Positional[Path]) -> None:
    """Count the quick run's intervals that contain the whole run's value.

    Args:
        quick: folder of the quick run.
        whole: folder of the default run, of the same methods.
    """
    runs = [finished(folder) for folder in (quick, whole)]
    found, expected = (cells_of(run) for run in runs)
    shared = [key for key in found if key in expected]
    if not shared:
        raise UsageError(f"{quick} and {whole} have no cell in common: expected runs of the same methods.")
    inside = {key: found[key].low - 1e-9 <= value(expected[key]) <= found[key].high + 1e-9 for key in shared}
    for key in shared:
        if not inside[key]:
            cell = found[key]
            print(f"outside: {' '.join(key)}: {value(expected[key]):.1%}, quick {cell.low:.1%} to {cell.high:.1%}")
    columns = Counter(name for _, _, name in shared)
    for name, count in columns.items():
        hits = sum(inside[key] for key in shared if key[2] == name)
        print(f"{name}: {hits} of {count} cells, {hits / count:.1%}")
    print(json.dumps({"share": round(sum(inside.values()) / len(shared), 4), "cells": len(shared)}))


if __name__ == "__main__":
    tyro.cli(main)
