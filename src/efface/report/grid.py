"""Grids of pictures with labels, and pictures inside a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from efface.io.images import png_bytes

INK, PAPER = (40, 40, 40), (255, 255, 255)


def image_grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    cell: int = 128,
    gap: int = 6,
) -> Image.Image:
    """A grid of pictures with a label above each column and left of each row.

    Args:
        rows: pictures, row by row; all rows are as long as the first.
        columns: one text a column, wrapped to the cell's width.
        labels: one text a row.
        cell: side of a cell in pixels; small pictures are enlarged by whole factors where possible.
        gap: pixels between cells.
    """
    font = ImageFont.load_default(size=max(11, cell // 10))
    line = max(11, cell // 10) + 3
    lines = [wrap(text, max(6, int(cell / (line * 0.42)))) for text in columns]
    top = gap + line * max((len(w) for w in lines), default=0)
    left = gap + (max((int(font.getlength(text)) for text in labels), default=0) + gap if labels else 0)
    width, height = max(len(row) for row in rows), len(rows)
    page = Image.new("RGB", (left + width * (cell + gap), top + height * (cell + gap)), PAPER)
    pen = ImageDraw.Draw(page)
    for column, words in enumerate(lines):
        for k, text in enumerate(words):
            pen.text((left + column * (cell + gap), gap // 2 + k * line), text, INK, font)
    for r, row in enumerate(rows):
        y = top + r * (cell + gap)
        if labels:
            pen.text((gap, y + cell // 2 - line // 2), labels[r], INK, font)
        for c, picture in enumerate(row):
            page.paste(picture.resize((cell, cell), Image.Resampling.LANCZOS), (left + c * (cell + gap), y))
    return page


def image_tag(picture: Image.Image, *, least: int = 128, most: int = 512) -> str:
    """An <img> that holds a picture itself, its longer side brought between `least` and `most` pixels."""
    longest = max(picture.size)
    factor = max(1.0, least / longest) if longest < most else most / longest
    image = picture.convert("RGB")
    if factor != 1:
        image = image.resize([round(side * factor) for side in picture.size], Image.Resampling.LANCZOS)
    data = base64.b64encode(png_bytes(image, optimize=True)).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'
