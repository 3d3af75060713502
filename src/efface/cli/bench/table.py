"""Leaderboards of finished runs, with published rows where the protocol is the same, and paired tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from efface.cli.output import console


@dataclass(frozen=True)
class Request:
    """Read run folders and print their tables; nothing is drawn."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that `efface bench PROTOCOL -o` wrote."""
    form: Literal["markdown", "csv", "json"] = "markdown"
    """Of the table."""
    whole: bool = False
    """Every concept's line and test, not only the means (CSV and JSON always have them)."""
    json: bool = False
    """The same as `--form json`."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = tyro.cli(Request, args=args, prog="efface bench table", description=__doc__)
    from efface.bench import leaderboard as tables

    found = tables.board(request.runs)
    if request.json or request.form == "json":
        print(json.dumps(tables.as_json(found)))
        return
    text = tables.as_csv(found) if request.form == "csv" else tables.markdown(found, whole=request.whole)
    console.print(text, markup=False, soft_wrap=True)
