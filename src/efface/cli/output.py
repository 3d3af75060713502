"""What commands print: tables and lines for people, one JSON object for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

T = TypeVar("T")

console = Console(highlight=False)
notices = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line about the work, on standard error."""
    notices.print(text, style="dim", markup=False)


def say_decisions(rows: Sequence[tuple[str, str]]) -> None:
    """What was decided, a line each, on standard error, before anything starts."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        notices.print(f"{name:{width}}  {value}", style="dim", markup=False, soft_wrap=True)


def say_remarks(names: Iterable[str], pipeline: Any) -> None:
    """How names of concepts were read, where that is not plain."""
    from efface.api.resolve import read

    for remark in read(tuple(names), pipeline):
        say(remark)


def progress(items: Iterable[T], what: str, *, total: int | None = None) -> Iterable[T]:
    """A progress bar on a terminal, one plain line elsewhere; `total` for items that do not know their number."""
    total = len(items) if total is None and isinstance(items, Sequence) else total
    if sys.stderr.isatty():
        return track(items, description=what, total=total, console=notices)
    say(f"{what} ({total})")
    return items


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Consecutive pieces of at most `size` items."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def result(data: dict[str, Any], *, as_json: bool, rows: Sequence[tuple[str, str]]) -> None:
    """The result: `data` as JSON, or `rows` of name and value."""
    if as_json:
        print(json.dumps(data))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")  # names are there to be copied: broken over two lines rather than cut
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
