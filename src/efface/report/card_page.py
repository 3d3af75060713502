"""The page of one or more cards: HTML that opens from disk, from their JSON and their pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple

from PIL import Image

from efface.metrics.rates import Paired, Rate
from efface.report import card_attacks, card_words, html
from efface.report.card_attacks import ImageRow
from efface.report.decisions import base_of, erasing_rows, where
from efface.report.grid import image_tag
from efface.report.svg import PlotArea

Data = Mapping[str, Any]
"""A card's JSON, or a part of it."""

STYLE = """
:root{color-scheme:light}body{margin:0 auto;max-width:60rem;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{width:100%}
td,th{padding:.25rem .6rem .25rem 0;border-bottom:1px solid #eee}td{overflow-wrap:anywhere}
.pairs{display:flex;flex-wrap:wrap;gap:.6rem}figure{width:8.6rem;line-height:1.3}
figure div{display:flex;gap:.2rem}img{width:50%}.bar{width:100%;max-width:30rem;height:auto}.scroll{overflow-x:auto}
"""
PICTURES = 8
"""Pairs of pictures shown of each group."""
TITLES = {
    "concept": "The concept itself",
    "aliases": "Its other names",
    "indirect": "Prompts that mean it without naming it",
    "neighbours": "Its nearest neighbours in the model's own text space",
    "unrelated": "Other things that were to be kept",
}


class CardImages(NamedTuple):
    """The pictures of one card."""

    groups: Mapping[str, tuple[Sequence[Image.Image], Sequence[Image.Image]]]
    """Name of a group -> its pictures before and after, in the order of its prompts and seeds."""
    attacks: Sequence[Sequence[ImageRow]]
    """The strongest samples of each attack."""
    words: Mapping[str, Sequence[ImageRow]] = MappingProxyType({})
    """Level of other words -> some of its pictures before and after."""


def page(cards: Sequence[Data], images: Sequence[CardImages]) -> str:
    """One page on several erasures, side by side where there are more than one.

    Args:
        cards: what `card.json` holds of each; those after the first say how they differ from it (`against_first`).
        images: of each.
    """
    names = ", ".join(dict.fromkeys(c["name"] for card in cards for c in card["erasure"]["concepts"]))
    parts = [_card(card, pictures) for card, pictures in zip(cards, images, strict=True)]
    body = "".join(parts)
    if len(cards) > 1:
        sections = (f"<h2>By {escape(c['erasure']['method'])}</h2>{part}" for c, part in zip(cards, parts, strict=True))
        body = _comparison(cards) + "".join(sections)
    return html.page(f"erasing {names}", body, heading=f"Erasing {names}", style=STYLE + card_attacks.STYLE)


def _comparison(cards: Sequence[Data]) -> str:
    """A table of all erasures by group."""
    groups = list(dict.fromkeys(name for card in cards for name in card["groups"]))
    head = "".join(f"<th>{escape(group)}</th>" for group in groups)
    rows = []
    for card in cards:
        by_name = card["groups"]
        cells = "".join(f"<td>{_shown(by_name[g]) if g in by_name else '–'}</td>" for g in groups)
        rows.append(f"<tr><th>{escape(card['erasure']['method'])}</th>{cells}</tr>")
    tests = []
    for card in cards[1:]:
        changes = card["against_first"]
        cells = "".join(f"<td>{_change(changes[g]) if g in changes else '–'}</td>" for g in groups)
        tests.append(f"<tr><th>{escape(card['erasure']['method'])}</th>{cells}</tr>")
    return (
        '<h2>Side by side</h2><p class="muted">Pictures that show what their prompt names, or in which a detector finds '
        "something, before and after.</p>"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
        f'<p class="muted">Against {escape(cards[0]["erasure"]["method"])} (the first), on the same prompts and seeds: change '
        "of what is shown after erasing, with the exact McNemar p.</p>"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(tests)}</table></div>'
        f"{card_words.beside(cards)}{card_attacks.beside(cards)}"
    )


def _card(card: Data, images: CardImages) -> str:
    erasure, seeds = card["erasure"], card["seeds"]
    facts = [
        ("method", f"{erasure['method']} ({erasure['kind']})"),
        *erasing_rows(erasure),
        ("size of its tensors", f"{erasure['bytes']:,} bytes"),
        ("made in", f"{erasure['notes'].get('seconds', '?')} s"),
        ("base model", base_of(erasure["base"])),
        *([("audited on", where(card["decisions"]))] if card.get("decisions") else []),
        ("audited by", card["judge"] or "none: pictures are only compared"),
        ("pictures", f"seeds {seeds[0]} to {seeds[-1]}, {card['steps']} steps, guidance {card['guidance']}"),
        ("other words", card["decisions"].get("words", "none")),
        ("versions", ", ".join(f"{k} {v}" for k, v in erasure["versions"].items())),
    ]
    table = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts)
    groups = "".join(_group(name, group, images, len(seeds)) for name, group in card["groups"].items())
    words = card_words.section(card["words"], images.words)
    attacks = card_attacks.section(card["attacks"], images.attacks) if card["attacks"] else ""
    certificate = _certificate(card["certificate"]) if card["certificate"] else ""
    return f"{_suffered(card['suffered'])}<table>{table}</table>{groups}{words}{attacks}{certificate}"


def _suffered(kept: Data | None) -> str:
    """What was to be kept and suffered most, in the first line; nothing where nothing was to be kept."""
    if kept is None:
        return ""
    shown = ""
    if kept["shown_before"] is not None:
        shown = f" shown in {kept['shown_before']:.1%} of its pictures before and in {kept['shown_after']:.1%} after;"
    return (
        f"<p>Of what was to be kept, <b>{escape(kept['name'])}</b> suffered most:{shown} its pictures differ by "
        f"{kept['distance']:.3f} on average.</p>"
    )


def _group(name: str, group: Data, images: CardImages, seeds: int) -> str:
    before, after = images.groups[name]
    bars = ""
    if group["shown_before"] and group["shown_after"]:
        rates = [("before", group["shown_before"]), ("after", group["shown_after"])]
        rates += [("intact", group["intact"])] if group["intact"] else []
        bars = _bars([(label, Rate(**rate)) for label, rate in rates])
    change = f"<p>Change {_change(group['change'])}.</p>" if group["change"] else ""
    chosen = range(0, len(before), max(1, len(before) // PICTURES))
    pairs = "".join(
        f"<figure><div>{image_tag(before[i], least=1, most=256)}{image_tag(after[i], least=1, most=256)}</div>"
        f"{escape(group['prompts'][i // seeds])}</figure>"
        for i in chosen[:PICTURES]
    )
    return (
        f"<h2>{escape(TITLES.get(name, name))}</h2><p>{group['pictures']} pictures of {len(group['prompts'])} prompts; they "
        f'differ by {group["distance"]:.3f} on average.</p>{bars}{change}<div class="pairs">{pairs}</div>'
    )


def _certificate(curve: Data) -> str:
    """What text states of bounded norm can bring back, as a table and a line over the logarithm of the norm."""
    width, height = 480, 150
    area = PlotArea(left=30, right=width - 10, top=20, bottom=height - 20)
    norms, recoverable, reachable = curve["norms"], curve["recoverable"], curve["reachable"]
    first, last = math.log(norms[0]), math.log(norms[-1])

    def share(norm: float) -> float:
        return (math.log(norm) - first) / (last - first)

    line = area.line([(share(r), max(0.0, y)) for r, y in zip(norms, recoverable, strict=True)])
    limit = ""
    if norms[0] < reachable < norms[-1]:
        x = area.x(share(reachable))
        limit = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{height - 20}" stroke="#c33" stroke-dasharray="4 3"/>'
    rows = "".join(
        f"<tr><td>{r:g}</td><td>{mean:.1%}</td><td>{worst:.1%}</td></tr>"
        for r, mean, worst in zip(norms, recoverable, curve["worst"], strict=True)
    )
    return (
        "<h2>What any text state can bring back</h2><p>Share of the concept's own keys and values that a state of norm at "
        f"most r recovers through the erasure; r in units of the concept's rows. No prompt exceeds {reachable:.2f} "
        "(dashed). It bounds copying, not redrawing by other means.</p>"
        f'<svg class="bar" viewBox="0 0 {width} {height}" role="img">{line}{limit}'
        '<text x="0" y="14" font-size="11">100%</text>'
        f'<text x="0" y="{height - 20}" font-size="11">0</text></svg>'
        f"<table><tr><th>r</th><th>mean</th><th>worst row</th></tr>{rows}</table>"
    )


def _change(data: Data) -> str:
    change = Paired(**data)
    return f"{change.difference:+.1%} ({change.low:+.1%} to {change.high:+.1%}), McNemar p = {change.p:.3g}"


def _shown(group: Data) -> str:
    if not group["shown_before"] or not group["shown_after"]:
        return f"distance {group['distance']:.3f}"
    return f"{group['shown_before']['value']:.1%} → {Rate(**group['shown_after'])}"


def _bars(rates: Sequence[tuple[str, Rate]]) -> str:
    """Horizontal bars with their intervals as lines; 360 units wide, so that a phone shows the letters at full size."""
    rows = []
    for number, (name, rate) in enumerate(rates):
        y = 6 + 24 * number
        low, high = 46 + 140 * rate.low, 46 + 140 * rate.high
        rows.append(
            f'<text x="0" y="{y + 13}" font-size="12">{escape(name)}</text>'
            f'<rect x="46" y="{y}" width="{140 * rate.value:.1f}" height="16" fill="#8db4e8"/>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 8}" y2="{y + 8}" stroke="#222"/>'
            f'<text x="192" y="{y + 13}" font-size="12">{escape(str(rate))}</text>'
        )
    return f'<svg class="bar" viewBox="0 0 360 {10 + 24 * len(rates)}" role="img">{"".join(rows)}</svg>'
