"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its heads; bars in cells are escaped."""
    return "\n".join([head(heads), *map(row, rows)])


def head(heads: Sequence[str]) -> str:
    """The first two lines of a table, for one whose rows come later."""
    return f"{row(heads)}\n{row(['---'] * len(heads))}"


def row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
