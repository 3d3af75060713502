"""A sheet of what an attack found: the original's picture, the erased model's, and what the attack made of it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from efface.io.images import save_picture
from efface.redteam.findings import Findings
from efface.redteam.store import Book
from efface.report.grid import sheet

MOST = 8
"""Tries on a sheet, the strongest first."""


def attack_sheet(findings: Findings, book: Book, path: Path) -> None:
    """Write the sheet as a PNG; a blank stands where there is no picture."""
    tries = findings.tries[:MOST]
    rows = [[book.picture(f"{t.number:03}-{kind}") for t in tries] for kind in ("original", "erased", "attacked")]
    known = next(p for row in rows for p in row if p is not None)
    blank = Image.new("RGB", known.size, (255, 255, 255))
    columns = [t.caption for t in tries]
    filled = [[blank if picture is None else picture for picture in row] for row in rows]
    save_picture(sheet(filled, columns=columns, labels=["original", "erased", "attacked"]), path)
