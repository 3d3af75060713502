"""Leaderboards: finished runs side by side, published rows where the protocol is the same, and paired tests."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from efface.bench import manifest as runs
from efface.bench import published
from efface.bench import table as forms
from efface.bench.ledger import Ledger
from efface.bench.protocols.canvas.attack_cells import broken_in
from efface.bench.protocols.canvas.compare import Comparison, Entry, comparisons, rows_of, same_pictures
from efface.bench.protocols.canvas.results import Results, results_of
from efface.bench.table import Row, with_means
from efface.bench.unit import Unit
from efface.errors import EffaceError, UsageError

TABLE = "table.json"
"""What the protocols of a user's model leave in a run's folder; the canvas's verdicts are read anew."""


class FinishedRun(NamedTuple):
    """A run that came to its end."""

    folder: Path
    protocol: str
    about: dict[str, Any]
    """What determined it."""
    rows: list[Row]
    """With means."""
    unerased: list[Unit]
    """What it drew with the unerased model."""
    results: Results | None
    """Every picture's verdicts, of runs of the canvas."""
    remarks: tuple[str, ...] = ()
    """What a reader of its rows must know."""


class Leaderboard(NamedTuple):
    """What `efface bench table` prints."""

    runs: list[FinishedRun]
    published: list[Row]
    comparisons: list[Comparison]
    notes: list[str]
    """Sentences that a reader of the numbers must know."""


def leaderboard(folders: Sequence[Path]) -> Leaderboard:
    """The leaderboard of run folders.

    Raises:
        UsageError: no folder was given, or one twice.
        EffaceError: a folder holds no run, or one that is not at its end.
    """
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError(f"{len(folders)} run folders were given: expected one or more, each once.")
    finished_runs = [finished(folder) for folder in folders]
    beside = {
        (row.method, row.concepts): row
        for run in finished_runs
        for row in published.rows_for(run.protocol, run.unerased)
    }
    notes = list(
        dict.fromkeys(filter(None, (published.difference(run.protocol, run.unerased) for run in finished_runs)))
    )
    notes += filter(None, [published.remark(beside.values())])
    for run in finished_runs:
        said = [*broken_in(run.folder), *run.remarks]
        notes += [f"{run.folder}: {sentence}" for sentence in said]
    return Leaderboard(
        runs=finished_runs,
        published=list(beside.values()),
        comparisons=comparisons(_entries(finished_runs)),
        notes=notes + _unlike(finished_runs),
    )


def finished(folder: Path) -> FinishedRun:
    """A run's rows, from its folder alone; raises EffaceError where it is none, or not at its end."""
    if not (folder / runs.FILE).exists() and (folder / TABLE).exists():
        return _kept(folder)
    record = runs.read(folder)
    results = results_of(folder, record)
    rows = with_means(results.rows())
    units = results.units(())
    remarks = tuple(results.remarks())
    results.ledger.close()  # the rows have read every picture, which tests need again
    return FinishedRun(
        folder=folder,
        protocol=record.protocol,
        about=asdict(record),
        rows=rows,
        unerased=units,
        results=results,
        remarks=remarks,
    )


def _kept(folder: Path) -> FinishedRun:
    """A run of a user's model."""
    path = folder / TABLE
    try:
        data = json.loads(path.read_text())
        rows = forms.from_json(data.pop("rows"))
        protocol = data["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EffaceError(f"{path} is damaged ({error!r}): run the protocol again, which writes it anew.") from error
    ledger = Ledger(folder / "ledger.sqlite")
    units = ledger.unerased()
    ledger.close()
    return FinishedRun(folder=folder, protocol=protocol, about=data, rows=rows, unerased=units, results=None)


def leaders(run: FinishedRun) -> list[Row]:
    """The unerased model and the mean of each kind and method; a row itself where there is no mean of it."""
    groups = Counter((row.method, row.kind) for row in run.rows)
    return [row for row in run.rows if not row.kind or groups[row.method, row.kind] == 1]


def markdown(board: Leaderboard, *, whole: bool = False) -> str:
    """Tables with a heading each; `whole` lists every concept beside the means."""
    parts = []
    for run in board.runs:
        plan = run.about.get("plan") or run.about.get("drawing", {})
        drawn = ", ".join(f"{name} {_short(value)}" for name, value in plan.items())
        parts += [f"## {run.folder} ({run.protocol}: {drawn})", forms.markdown(run.rows if whole else leaders(run))]
    if board.published:
        parts += ["## Published", forms.markdown(board.published)]
    tested = [c for c in board.comparisons if whole or c.pooled] or board.comparisons
    if tested:
        parts += ["## Paired tests, second less first (exact McNemar p)", forms.markdown(rows_of(tested))]
    return "\n\n".join([*parts, *board.notes])


def as_csv(board: Leaderboard) -> str:
    """Every line of every run, and the published ones; the first column is the run's folder."""
    out = io.StringIO()
    rows: list[dict[str, str]] = []
    for folder, lines in [*((str(run.folder), run.rows) for run in board.runs), ("published", board.published)]:
        rows += [{"run": folder} | row for row in csv.DictReader(io.StringIO(forms.as_csv(lines)))]
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in rows for name in row)), restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_json(board: Leaderboard) -> dict[str, Any]:
    """Everything, with what determined it."""
    return {
        "runs": [{"folder": str(run.folder), **run.about, "lines": forms.as_json(run.rows)} for run in board.runs],
        "published": forms.as_json(board.published),
        "comparisons": [c.to_json() for c in board.comparisons],
        "notes": board.notes,
    }


def _entries(finished_runs: Sequence[FinishedRun]) -> list[Entry]:
    """Every method of every run of the canvas; the folder tells two runs of one method apart."""
    pairs = [(run, method) for run in finished_runs if run.results for method in run.results.plan.methods]
    often = Counter(method for _, method in pairs)
    return [
        Entry(method if often[method] == 1 else f"{method} ({run.folder})", run.results, method)
        for run, method in pairs
        if run.results
    ]


def _unlike(finished_runs: Sequence[FinishedRun]) -> list[str]:
    """Why some of several runs of the canvas are not compared picture by picture."""
    drawn = [run for run in finished_runs if run.results]
    others = [
        str(run.folder)
        for run in drawn
        if run.results and drawn[0].results and not same_pictures(drawn[0].results, run.results)
    ]
    if not others:
        return []
    return [
        f"{', '.join(others)}: drawn with other seeds, prompts or settings than {drawn[0].folder}, so not tested against it."
    ]


def _short(value: Any) -> str:
    """A field of a plan; of long lists their length."""
    if isinstance(value, list):
        return f"[{len(value)}]" if len(value) > 6 else "+".join(map(str, value))
    return str(value)
