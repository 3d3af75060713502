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
from efface.bench.protocols.canvas.compare import Comparison, Entry, comparisons, lines_of, same_pictures
from efface.bench.protocols.canvas.results import Results, results_of
from efface.bench.table import Line, with_means
from efface.bench.unit import Unit
from efface.errors import EffaceError, UsageError

TABLE = "table.json"
"""What the protocols of a user's model leave in a run's folder; the canvas's verdicts are read anew."""


class Finished(NamedTuple):
    """A run that came to its end."""

    folder: Path
    protocol: str
    about: dict[str, Any]
    """What determined it."""
    lines: list[Line]
    """With means."""
    unerased: list[Unit]
    """What it drew with the unerased model."""
    results: Results | None
    """Every picture's verdicts, of runs of the canvas."""


class Board(NamedTuple):
    """What `efface bench table` prints."""

    runs: list[Finished]
    published: list[Line]
    comparisons: list[Comparison]
    notes: list[str]
    """Sentences that a reader of the numbers must know."""


def board(folders: Sequence[Path]) -> Board:
    """The leaderboard of run folders.

    Raises:
        UsageError: no folder was given, or one twice.
        EffaceError: a folder holds no run, or one that is not at its end.
    """
    if not folders or len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError(f"{len(folders)} run folders were given: expected one or more, each once.")
    found = [finished(folder) for folder in folders]
    beside = {
        (line.method, line.concepts): line for run in found for line in published.lines_for(run.protocol, run.unerased)
    }
    notes = list(dict.fromkeys(filter(None, (published.difference(run.protocol, run.unerased) for run in found))))
    notes += [f"{run.folder}: {sentence}" for run in found for sentence in broken_in(run.folder)]
    return Board(found, list(beside.values()), comparisons(_entries(found)), notes + _unlike(found))


def finished(folder: Path) -> Finished:
    """A run's lines, from its folder alone; raises EffaceError where it is none, or not at its end."""
    if not (folder / runs.FILE).exists() and (folder / TABLE).exists():
        return _kept(folder)
    record = runs.read(folder)
    results = results_of(folder, record)
    lines, units = with_means(results.lines()), results.units(())
    results.ledger.close()  # the lines have read every picture, which tests need again
    return Finished(folder, record.protocol, asdict(record), lines, units, results)


def _kept(folder: Path) -> Finished:
    """A run of a user's model."""
    path = folder / TABLE
    try:
        data = json.loads(path.read_text())
        lines, protocol = forms.from_json(data.pop("rows")), data["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EffaceError(f"{path} is damaged ({error!r}): run the protocol again, which writes it anew.") from error
    ledger = Ledger(folder / "ledger.sqlite")
    units = ledger.unerased()
    ledger.close()
    return Finished(folder, protocol, data, lines, units, None)


def leaders(run: Finished) -> list[Line]:
    """The unerased model and the mean of each kind and method; a line itself where there is no mean of it."""
    groups = Counter((line.method, line.kind) for line in run.lines)
    return [line for line in run.lines if not line.kind or groups[line.method, line.kind] == 1]


def markdown(found: Board, *, whole: bool = False) -> str:
    """Tables with a heading each; `whole` lists every concept beside the means."""
    parts = []
    for run in found.runs:
        plan = run.about.get("plan") or run.about.get("drawing", {})
        drawn = ", ".join(f"{name} {_short(value)}" for name, value in plan.items())
        parts += [f"## {run.folder} ({run.protocol}: {drawn})", forms.markdown(run.lines if whole else leaders(run))]
    if found.published:
        parts += ["## Published", forms.markdown(found.published)]
    tested = [c for c in found.comparisons if whole or c.pooled] or found.comparisons
    if tested:
        parts += ["## Paired tests, second less first (exact McNemar p)", forms.markdown(lines_of(tested))]
    return "\n\n".join([*parts, *found.notes])


def as_csv(found: Board) -> str:
    """Every line of every run, and the published ones; the first column is the run's folder."""
    out = io.StringIO()
    rows: list[dict[str, str]] = []
    for folder, lines in [*((str(run.folder), run.lines) for run in found.runs), ("published", found.published)]:
        rows += [{"run": folder} | row for row in csv.DictReader(io.StringIO(forms.as_csv(lines)))]
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in rows for name in row)), restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_json(found: Board) -> dict[str, Any]:
    """Everything, with what determined it."""
    return {
        "runs": [{"folder": str(run.folder), **run.about, "lines": forms.as_json(run.lines)} for run in found.runs],
        "published": forms.as_json(found.published),
        "comparisons": [c.to_json() for c in found.comparisons],
        "notes": found.notes,
    }


def _entries(found: Sequence[Finished]) -> list[Entry]:
    """Every method of every run of the canvas; the folder tells two runs of one method apart."""
    pairs = [(run, method) for run in found if run.results for method in run.results.plan.methods]
    often = Counter(method for _, method in pairs)
    return [
        Entry(method if often[method] == 1 else f"{method} ({run.folder})", run.results, method)
        for run, method in pairs
        if run.results
    ]


def _unlike(found: Sequence[Finished]) -> list[str]:
    """Why some of several runs of the canvas are not compared picture by picture."""
    drawn = [run for run in found if run.results]
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
