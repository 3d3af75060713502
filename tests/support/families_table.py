"""The table of docs/families.md, written from what the tests of families found (`pytest -m families --write-families`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from efface.report import markdown
from tiny_families import CASES

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
COLUMNS = (
    "model",
    "text maps: UCE, RECE, preserve, project",
    "RECE's `1st`",
    "SAeUron",
    "guards on the denoiser's output",
    "text enters unmapped through",
)


def write_table(found: Mapping[tuple[str, str], str], document: str | Path) -> None:
    """Put the table between its marks in a document.

    Args:
        found: (family, method) -> finding, of every family in CASES.
        document: it holds the two marks.

    Raises:
        KeyError: a family was not tested.
    """
    path = Path(document)
    text = path.read_text()
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{table(found)}\n{END}{tail}")


def table(found: Mapping[tuple[str, str], str]) -> str:
    """The table in Markdown, one row a family."""
    parts = ("maps", "1st", "sites", "guards", "unmapped_inputs")
    return markdown.table(
        COLUMNS, [[case.checkpoint, *(found[name, p] for p in parts)] for name, case in CASES.items()]
    )
