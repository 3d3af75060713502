"""Rows of a benchmark's table: cells that know their interval, as Markdown, CSV and JSON from the same data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from efface.metrics.rates import Paired, Rate, bootstrap
from efface.report.markdown import table


class Mean(NamedTuple):
    """A mean over pictures with its bootstrap interval; in the unit of its measure, where a Rate is a share."""

    value: float
    low: float
    high: float
    pictures: int


class Count(NamedTuple):
    """What a detector found."""

    found: int
    """Findings in all."""
    pictures: int
    """Pictures with at least one."""


Cell = Rate | Mean | Paired | Count | float | int


class Row(NamedTuple):
    """One row of a table."""

    name: str
    """Name of the erasure's file; `unerased` for the model as it is, `mean` of several."""
    method: str
    concepts: str
    cells: dict[str, Cell]
    kind: str = ""
    """Rows of one kind and method have a mean; empty where a mean says nothing."""


def mean(values: Sequence[float], clusters: Sequence[int] | None = None) -> Mean:
    """A mean and its interval; whole clusters (prompts) are resampled where they are given."""
    value, low, high = bootstrap(values, clusters)
    return Mean(value=value, low=low, high=high, pictures=len(values))


def with_means(rows: Sequence[Row]) -> list[Row]:
    """The rows, and below them a mean of every kind of every method that has several; means have no interval, and counts no mean."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.kind:
            groups.setdefault((row.method, row.kind), []).append(row)
    means = [
        Row(name="mean", method=method, concepts=f"{len(members)} {kind}", cells=_averaged(members))
        for (method, kind), members in groups.items()
        if len(members) > 1
    ]
    return [*rows, *means]


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table; intervals stand in parentheses."""
    columns = _columns(rows)
    cells = [[row.name, row.method, row.concepts, *(_text(row.cells.get(c)) for c in columns)] for row in rows]
    return table(["erasure", "method", "concepts", *columns], cells)


def as_csv(rows: Sequence[Row], seen_by: str = "") -> str:
    """Comma-separated; every part of a cell has a column of its own, and the last one names what looked at the pictures."""
    records = [
        {"erasure": row.name, "method": row.method, "concepts": row.concepts}
        | {_joined(c, part): v for c, cell in row.cells.items() for part, v in _parts(cell).items()}
        for row in rows
    ]
    for record in records:
        record["seen by"] = seen_by
    names = sorted(dict.fromkeys(name for record in records for name in record), key=lambda name: name == "seen by")
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dictionary a row; a cell is a number, or its parts. Rates are shares, and what is not known is None."""
    return [
        {"erasure": row.name, "method": row.method, "concepts": row.concepts, "kind": row.kind}
        | {"cells": {c: _typed(cell) if isinstance(cell, tuple) else cell for c, cell in row.cells.items()}}
        for row in rows
    ]


def from_json(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows that `as_json` wrote; raises KeyError or TypeError for anything else."""
    return [
        Row(
            name=row["erasure"],
            method=row["method"],
            concepts=row["concepts"],
            cells={c: _cell(v) for c, v in row["cells"].items()},
            kind=row["kind"],
        )
        for row in rows
    ]


def _typed(cell: Cell) -> dict[str, Any]:
    return {"type": type(cell).__name__.lower()} | _parts(cell)


def _cell(value: Any) -> Cell:
    """A cell from JSON; unknown parts are NaN again."""
    if not isinstance(value, dict):
        return value
    kind = {"rate": Rate, "mean": Mean, "paired": Paired, "count": Count}[value["type"]]
    return kind(**{name: math.nan if v is None else v for name, v in value.items() if name != "type"})


def _averaged(members: Sequence[Row]) -> dict[str, Cell]:
    counts = {c for member in members for c, cell in member.cells.items() if isinstance(cell, Count)}
    shared = [c for c in members[0].cells if c not in counts and all(c in m.cells for m in members)]
    return {c: _average([m.cells[c] for m in members]) for c in shared}


def _average(cells: Sequence[Any]) -> Cell:
    first = cells[0]
    if isinstance(first, Paired):
        return Paired(difference=_of([c.difference for c in cells]), low=math.nan, high=math.nan, p=math.nan)
    if isinstance(first, Rate | Mean):
        value = _of([c.value for c in cells])
        pictures = sum(c.pictures for c in cells)
        return type(first)(value=value, low=math.nan, high=math.nan, pictures=pictures)
    return _of(cells)


def _of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _columns(rows: Sequence[Row]) -> list[str]:
    """The columns of all rows; one that is not in every row stands where it stands in its own."""
    columns: list[str] = []
    for row in rows:
        position = 0
        for column in row.cells:
            if column in columns:
                position = columns.index(column)
            else:
                columns.insert(position, column)
            position += 1
    return columns


def _text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Rate):
        return f"{100 * cell.value:.1f}%{_interval(100 * cell.low, 100 * cell.high, '.1f')}"
    if isinstance(cell, Paired):
        return f"{100 * cell.difference:+.1f}{_interval(100 * cell.low, 100 * cell.high, '+.1f')}"
    if isinstance(cell, Mean):
        return f"{cell.value:.4g}{_interval(cell.low, cell.high, '.4g')}"
    if isinstance(cell, Count):
        return f"{cell.found:,} in {cell.pictures:,}"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.4g}" if abs(cell) < 1e4 else f"{cell:,.0f}"


def _interval(low: float, high: float, form: str) -> str:
    return "" if math.isnan(low) else f" ({low:{form}} to {high:{form}})"


def _parts(cell: Cell) -> dict[str, float | int | None]:
    parts = cell._asdict() if isinstance(cell, tuple) else {"value": cell}
    return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in parts.items()}


def _joined(column: str, part: str) -> str:
    return column if part == "value" else f"{column} {part}"
