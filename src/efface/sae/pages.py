"""Static pages on the latents of an autoencoder: one a latent, one a picture, and an index; they open without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from efface.heads.names import Name
from efface.io.atomic import write_atomically
from efface.report.grid import image_tag
from efface.report.html import page
from efface.report.svg import PlotArea
from efface.sae.dashboard import FeatureDashboard, TopPicture

STYLE = """
body{margin:2rem auto;max-width:64rem;padding:0 1rem}a{color:#0645ad;text-decoration:none}a:hover{text-decoration:underline}
.grid{display:flex;flex-wrap:wrap;gap:.8rem}figure{width:9rem}img{width:100%;image-rendering:auto;display:block}
td,th{padding:.2rem .8rem .2rem 0}
.region{position:relative;width:24rem}.region div{position:absolute;font-size:11px;line-height:1.25;padding:2px;
box-sizing:border-box;border:1px solid rgba(0,0,0,.25);overflow:hidden}
"""


def write_pages(
    dashboard: FeatureDashboard,
    latents: Sequence[int],
    folder: Path,
    *,
    scores: dict[int, list[tuple[str, float]]],
    names: Mapping[int, Name] | None = None,
    pictures: int = 24,
) -> Path:
    """Write `index.html` and its pages; returns the index.

    Args:
        dashboard: activations of the latents on the pictures.
        latents: latents that get a page.
        folder: folder of the pages, created if missing.
        scores: latent -> the concepts that score it highest (published score), where statistics are known.
        names: latent -> its name, where a head gave names.
        pictures: how many pictures get a page of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    selection = range(0, len(dashboard.pictures), max(1, len(dashboard.pictures) // pictures))
    with_page = set(latents)
    names = names or {}
    for latent in latents:
        body = _latent(dashboard, latent, scores.get(latent, []), names.get(latent))
        _write(folder / f"latent-{latent}.html", f"latent {latent}", body)
    for picture in selection:
        _write(
            folder / f"picture-{picture}.html",
            dashboard.labels[picture].prompt,
            _picture(dashboard, picture, with_page),
        )
    _write(folder / "index.html", f"latents of {dashboard.site}", _index(dashboard, latents, selection, names))
    return folder / "index.html"


def _index(
    dashboard: FeatureDashboard, latents: Sequence[int], pictures: Sequence[int], named: Mapping[int, Name]
) -> str:
    cards = []
    for latent in latents:
        best = dashboard.strongest(latent, 1)
        picture = image_tag(_overlay(dashboard.pictures[best[0].picture], best[0])) if best else ""
        names = ", ".join(escape(name) for name, _ in dashboard.concepts_of(latent, 2))
        name = f"<br><b>{escape(str(named[latent]))}</b>" if latent in named else ""
        cards.append(f'<figure><a href="latent-{latent}.html">{picture}latent {latent}</a>{name}<br>{names}</figure>')
    drawn = [
        f'<figure><a href="picture-{i}.html">{image_tag(dashboard.pictures[i])}{escape(dashboard.labels[i].prompt)}</a></figure>'
        for i in pictures
    ]
    head = f"<p>{len(dashboard.pictures)} pictures, {len(dashboard.timesteps)} timesteps, {len(latents)} latents shown.</p>"
    return f"{head}<h2>Latents</h2>{_grid(cards)}<h2>Pictures</h2>{_grid(drawn)}"


def _latent(dashboard: FeatureDashboard, latent: int, scores: list[tuple[str, float]], name: Name | None) -> str:
    strongest = dashboard.strongest(latent, 12)
    figures = [
        f"<figure>{image_tag(_overlay(dashboard.pictures[s.picture], s))}{escape(dashboard.labels[s.picture].prompt)}"
        f'<br><span class="muted">{s.strength:.3f}</span></figure>'
        for s in strongest
    ]
    concepts = "".join(
        f"<tr><td>{escape(name)}</td><td>{ratio:.1f} × the average</td></tr>"
        for name, ratio in dashboard.concepts_of(latent)
    )
    scored = "".join(f"<tr><td>{escape(name)}</td><td>score {score:.4f}</td></tr>" for name, score in scores)
    told = "" if name is None else f"<h2>{escape(name.label)}</h2><p>Purity {name.purity:.0%}.</p>"
    return (
        f'<p><a href="index.html">all latents</a></p>{told}<p>Active at {float(dashboard.density[latent]):.2%} of positions.</p>'
        f"<h2>Strongest pictures</h2>{_grid(figures) if figures else '<p>It was never active.</p>'}"
        f"<h2>Concepts</h2><table>{concepts}{scored}</table>"
        f"<h2>Activation over timesteps</h2>{_curve(dashboard.timesteps.tolist(), dashboard.by_timestep[:, latent].tolist())}"
    )


def _picture(dashboard: FeatureDashboard, picture: int, with_page: set[int]) -> str:
    rows = dashboard.regions_of(picture)
    share = 100 / len(rows)
    cells = []
    for r, row in enumerate(rows):
        for c, best in enumerate(row):
            lines = "<br>".join(
                f'<a href="latent-{i}.html">{i}</a> {v:.2f}' if i in with_page else f"{i} {v:.2f}"
                for i, v in best
                if v > 0
            )
            box = f"left:{c * share}%;top:{r * share}%;width:{share}%;height:{share}%"
            cells.append(f'<div style="{box}">{lines}</div>')
    faded = Image.blend(
        dashboard.pictures[picture].convert("RGB"), Image.new("RGB", dashboard.pictures[picture].size, "white"), 0.5
    )
    return (
        f'<p><a href="index.html">all pictures</a></p><div class="grid"><div class="region">{image_tag(faded)}{"".join(cells)}'
        f"</div><figure>{image_tag(dashboard.pictures[picture])}</figure></div>"
        '<p class="muted">Strongest latents of each region, mean over its positions and all steps.</p>'
    )


def _overlay(picture: Any, strong: TopPicture) -> Image.Image:
    """A picture with a latent's map laid over it in red, as strong as the latent is there."""
    heat = strong.heat / strong.heat.max().clamp(min=1e-12)
    mask = Image.fromarray((heat * 190).byte().numpy()).resize(picture.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", picture.size, (220, 20, 30)), picture.convert("RGB"), mask)


def _curve(xs: Sequence[float], ys: Sequence[float], width: int = 480, height: int = 140) -> str:
    """A small SVG line with its axes named."""
    top = max([*ys, 1e-12])
    area = PlotArea(left=40, right=width - 10, top=15, bottom=height - 25)
    line = area.line([(1 - x / 1000, y / top) for x, y in zip(xs, ys, strict=True)])
    return (
        f'<svg width="{width}" height="{height}" font-size="11">{line}<text x="2" y="14">{top:.3f}</text>'
        f'<text x="40" y="{height - 6}">timestep 1000 (noise)</text>'
        f'<text x="{width - 40}" y="{height - 6}">0</text></svg>'
    )


def _grid(items: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(items)}</div>'


def _write(path: Path, title: str, body: str) -> None:
    write_atomically(path, page(title, body, style=STYLE).encode())
