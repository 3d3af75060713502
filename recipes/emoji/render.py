"""Render every object in every style: 96 px RGBA drawings, which the composer reduces.

python -m recipes.emoji.render --work build/emoji
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from safetensors.numpy import save_file

from recipes.emoji.fetch import read_json
from recipes.emoji.training import stage
from recipes.emoji.words import OBJECTS, STYLES

SIZE = 96
"""Side of a drawing in pixels."""


def squeeze(slug: str) -> str:
    """A slug without separators, since the nine sets disagree about hyphens."""
    return slug.replace("-", "").replace("_", "").lower()


def svg_of(icons: dict, slug: str) -> str:
    """The SVG text of the icon `slug` (squeezed) of an Iconify set, aliases followed, `currentColor` as black."""
    by_slug = {squeeze(name): name for name in (*icons.get("aliases", {}), *icons["icons"])}
    name = by_slug[slug]
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"].replace("currentColor", "#000")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{body}</svg>'
    )


def render(svg: str) -> np.ndarray:
    """RGBA pixels (height width 4), uint8, not premultiplied."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA").resize((SIZE, SIZE)))


def main(work: Path = Path("build/emoji")) -> None:
    """Write `drawings.safetensors` (objects styles 96 96 4, uint8) and a sheet of all of them.

    Args:
        work: folder of the recipe's products.
    """
    slugs = {entry["name"]: squeeze(entry["slug"]) for entry in read_json(work, "names", "data-by-emoji.json").values()}
    sets = {style: read_json(work, style, "icons.json") for style in STYLES}
    drawings = np.stack(
        [np.stack([render(svg_of(sets[style], slugs[thing.emoji])) for style in STYLES]) for thing in OBJECTS]
    )
    save_file({"drawings": drawings}, work / "drawings.safetensors")
    objects, styles = drawings.shape[:2]
    sheet = Image.new("RGB", (styles * SIZE * 4, objects // 4 * SIZE), "white")
    for o in range(objects):
        for s in range(styles):
            picture = Image.fromarray(drawings[o, s])
            sheet.paste(picture, ((o % 4 * styles + s) * SIZE, o // 4 * SIZE), picture)
    sheet.save(work / "drawings.png")
    print(f"{objects} objects x {styles} styles in {work / 'drawings.safetensors'}, sheet in {work / 'drawings.png'}")


if __name__ == "__main__":
    main(stage(__doc__ or "").work)
