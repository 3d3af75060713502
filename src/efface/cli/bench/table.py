"""Leaderboards of finished runs, with published rows where the protocol is the same, and paired tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from efface.cli.arguments import parse
from efface.cli.output import console


@dataclass(frozen=True)
class Request:
    """Read run folders and print their tables; nothing is drawn."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER [FOLDER ...]")]
    """Folders that `efface bench PROTOCOL -o` wrote."""
    format: Literal["markdown", "csv", "json"] = "markdown"
    """Form of the table."""
    whole: bool = False
    """Every concept's line and test, not only the means (CSV and JSON always have them)."""
    json: bool = False
    """The same as `--format json`."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface bench table", description=__doc__)
    from efface.bench import leaderboard as tables

    board = tables.leaderboard(request.runs)
    if request.json or request.format == "json":
        print(json.dumps(tables.as_json(board)))
        return
    text = tables.as_csv(board) if request.format == "csv" else tables.markdown(board, whole=request.whole)
    console.print(text, markup=False, soft_wrap=True)
