"""Lists of concepts from files: one a line, or CSV with a kind, an anchor and aliases beside each name."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple, get_args

from efface.concepts.concept import Kind
from efface.errors import EffaceError, UsageError, system_reason

COLUMNS = ("name", "kind", "anchor", "aliases")
"""In this order where the file has no header."""


class Entry(NamedTuple):
    """A line of a list."""

    name: str
    kind: Kind | None = None
    """None where the name is to tell."""
    anchor: str | None = None
    """None is the method's default."""
    aliases: tuple[str, ...] = ()


def read_list(path: Path) -> list[Entry]:
    """The concepts of a file, each name once; empty lines and those that begin with # are skipped.

    Columns are name, kind, anchor, aliases (separated by semicolons); a first line that begins with `name` says another order.

    Raises:
        EffaceError: the file cannot be read.
        UsageError: it is empty, or a line is not understood.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = system_reason(error) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise EffaceError(
            f"the list {path} cannot be read ({reason}): give a text file with one concept a line."
        ) from error
    columns = COLUMNS
    found: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        if cells[0].lower() == "name" and not found:
            columns = tuple(cell.lower() for cell in cells)
            unknown = [column for column in columns if column not in COLUMNS]
            if unknown:
                raise UsageError(f"{path} has a column {unknown[0]!r}; expected {', '.join(COLUMNS)}.")
            continue
        if len(cells) > len(columns):
            raise UsageError(
                f"line {number} of {path} has {len(cells)} columns; expected at most {', '.join(columns)}: put a name with a "
                "comma in double quotes."
            )
        entry = _entry(dict(zip(columns, cells, strict=False)), f"line {number} of {path}")
        found.setdefault(entry.name, entry)
    if not found:
        raise UsageError(f"{path} names no concept: write one a line.")
    return list(found.values())


def _entry(cells: dict[str, str], where: str) -> Entry:
    """A line by column."""
    kind = cells.get("kind") or None
    if not cells.get("name"):
        raise UsageError(f"{where} has no name: write the concept's name first.")
    if kind is not None and kind not in get_args(Kind):
        raise UsageError(
            f"{where} has the kind {kind!r}; expected one of {', '.join(get_args(Kind))}, or a name in double quotes where the "
            "comma is part of it."
        )
    aliases = tuple(alias.strip() for alias in cells.get("aliases", "").split(";") if alias.strip())
    return Entry(name=cells["name"], kind=kind, anchor=cells.get("anchor") or None, aliases=aliases)  # type: ignore[arg-type]
