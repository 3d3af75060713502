"""Static pages on the latents of an autoencoder: one a latent, one a picture, and an index; they open without a server."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from efface.io.atomic import write_atomically
from efface.report.grid import embedded
from efface.sae.dashboard import Atlas, Seen

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222}
a{color:#0645ad;text-decoration:none}a:hover{text-decoration:underline}
.grid{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;font-size:12px;width:9rem}
img{width:100%;image-rendering:auto;border:1px solid #ddd;display:block}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
.region{position:relative;width:24rem}.region div{position:absolute;font-size:11px;line-height:1.25;padding:2px;
box-sizing:border-box;border:1px solid rgba(0,0,0,.25);overflow:hidden}.muted{color:#777}
"""


def write_pages(
    atlas: Atlas,
    latents: Sequence[int],
    folder: Path,
    *,
    scores: dict[int, list[tuple[str, float]]],
    pictures: int = 24,
) -> Path:
    """Write `index.html` and its pages; returns the index.

    Args:
        atlas: what the latents do.
        latents: those that get a page.
        folder: made if missing.
        scores: latent -> the concepts that score it highest (published score), where statistics are known.
        pictures: how many pictures get a page of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = range(0, len(atlas.pictures), max(1, len(atlas.pictures) // pictures))
    known = set(latents)
    for latent in latents:
        _write(folder / f"latent-{latent}.html", f"latent {latent}", _latent(atlas, latent, scores.get(latent, [])))
    for picture in chosen:
        _write(folder / f"picture-{picture}.html", atlas.labels[picture].prompt, _picture(atlas, picture, known))
    _write(folder / "index.html", f"latents of {atlas.site}", _index(atlas, latents, chosen))
    return folder / "index.html"


def _index(atlas: Atlas, latents: Sequence[int], pictures: Sequence[int]) -> str:
    cards = []
    for latent in latents:
        best = atlas.strongest(latent, 1)
        picture = embedded(_overlay(atlas.pictures[best[0].picture], best[0])) if best else ""
        names = ", ".join(escape(name) for name, _ in atlas.concepts_of(latent, 2))
        cards.append(f'<figure><a href="latent-{latent}.html">{picture}latent {latent}</a><br>{names}</figure>')
    drawn = [
        f'<figure><a href="picture-{i}.html">{embedded(atlas.pictures[i])}{escape(atlas.labels[i].prompt)}</a></figure>'
        for i in pictures
    ]
    head = f"<p>{len(atlas.pictures)} pictures, {len(atlas.levels)} noise levels, {len(latents)} latents shown.</p>"
    return f"{head}<h2>Latents</h2>{_grid(cards)}<h2>Pictures</h2>{_grid(drawn)}"


def _latent(atlas: Atlas, latent: int, scores: list[tuple[str, float]]) -> str:
    seen = atlas.strongest(latent, 12)
    figures = [
        f"<figure>{embedded(_overlay(atlas.pictures[s.picture], s))}{escape(atlas.labels[s.picture].prompt)}"
        f'<br><span class="muted">{s.strength:.3f}</span></figure>'
        for s in seen
    ]
    concepts = "".join(
        f"<tr><td>{escape(name)}</td><td>{ratio:.1f} × the average</td></tr>"
        for name, ratio in atlas.concepts_of(latent)
    )
    scored = "".join(f"<tr><td>{escape(name)}</td><td>score {score:.4f}</td></tr>" for name, score in scores)
    return (
        f'<p><a href="index.html">all latents</a></p><p>Active at {float(atlas.density[latent]):.2%} of positions.</p>'
        f"<h2>Strongest pictures</h2>{_grid(figures) if figures else '<p>It was never active.</p>'}"
        f"<h2>Concepts</h2><table>{concepts}{scored}</table>"
        f"<h2>Activation over noise levels</h2>{_curve(atlas.levels.tolist(), atlas.by_level[:, latent].tolist())}"
    )


def _picture(atlas: Atlas, picture: int, known: set[int]) -> str:
    rows = atlas.regions_of(picture)
    share = 100 / len(rows)
    cells = []
    for r, row in enumerate(rows):
        for c, best in enumerate(row):
            lines = "<br>".join(
                f'<a href="latent-{i}.html">{i}</a> {v:.2f}' if i in known else f"{i} {v:.2f}" for i, v in best if v > 0
            )
            place = f"left:{c * share}%;top:{r * share}%;width:{share}%;height:{share}%"
            cells.append(f'<div style="{place}">{lines}</div>')
    faded = Image.blend(
        atlas.pictures[picture].convert("RGB"), Image.new("RGB", atlas.pictures[picture].size, "white"), 0.5
    )
    return (
        f'<p><a href="index.html">all pictures</a></p><div class="grid"><div class="region">{embedded(faded)}{"".join(cells)}'
        f"</div><figure>{embedded(atlas.pictures[picture])}</figure></div>"
        '<p class="muted">Strongest latents of each region, mean over its positions and all steps.</p>'
    )


def _overlay(picture: Any, seen: Seen) -> Image.Image:
    """A picture with a latent's map laid over it in red, as strong as the latent is there."""
    heat = seen.heat / seen.heat.max().clamp(min=1e-12)
    mask = Image.fromarray((heat * 190).byte().numpy()).resize(picture.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", picture.size, (220, 20, 30)), picture.convert("RGB"), mask)


def _curve(xs: Sequence[float], ys: Sequence[float], width: int = 480, height: int = 140) -> str:
    """A small SVG line with its axes named."""
    top = max([*ys, 1e-12])
    points = " ".join(
        f"{40 + (width - 50) * (1 - x / 1000):.1f},{height - 25 - (height - 40) * y / top:.1f}"
        for x, y in zip(xs, ys, strict=True)
    )
    return (
        f'<svg width="{width}" height="{height}" font-size="11"><polyline points="{points}" fill="none" stroke="#1e5ac8" '
        f'stroke-width="2"/><text x="2" y="14">{top:.3f}</text><text x="40" y="{height - 6}">timestep 1000 (noise)</text>'
        f'<text x="{width - 40}" y="{height - 6}">0</text></svg>'
    )


def _grid(items: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(items)}</div>'


def _write(path: Path, title: str, body: str) -> None:
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    write_atomically(path, page.encode())
