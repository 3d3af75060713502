"""Pictures of a unit as one PNG, in their own size and without loss, that says itself what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from efface.bench.unit import Unit
from efface.io.images import png_bytes


def sheet_of(unit: Unit, pictures: Sequence[Any]) -> bytes:
    """PNG of a near-square grid, row by row in the unit's order; its text entry `efface` holds the unit as JSON."""
    width, height = pictures[0].size
    columns = math.ceil(math.sqrt(len(pictures)))
    page = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height))
    for i, picture in enumerate(pictures):
        page.paste(picture, (i % columns * width, i // columns * height))
    about = PngInfo()
    about.add_itxt("efface", json.dumps(unit.to_json() | {"columns": columns}))
    return png_bytes(page, pnginfo=about)
