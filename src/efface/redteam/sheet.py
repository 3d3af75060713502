"""A sheet of what an attack found: the original's image, the erased model's, and what the attack made of it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from efface.io.images import save_picture
from efface.redteam.findings import Findings
from efface.redteam.store import VIEWS, RunStore
from efface.report.grid import image_grid

MOST = 8
"""Samples on a sheet, the strongest first."""


def attack_sheet(findings: Findings, store: RunStore, path: Path) -> None:
    """Write the sheet as a PNG; a blank stands where there is no image."""
    results = findings.samples[:MOST]
    rows = [[store.image(result.number, view) for result in results] for view in VIEWS]
    size = next(image.size for row in rows for image in row if image is not None)
    blank = Image.new("RGB", size, (255, 255, 255))
    filled = [[blank if image is None else image for image in row] for row in rows]
    save_picture(image_grid(filled, columns=[result.caption for result in results], labels=list(VIEWS)), path)
