"""The part of a card on other words: how often each level still brings the concept, and which the unerased model understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from efface.concepts.levels import LEVELS
from efface.metrics.rates import Paired, Rate
from efface.report.card_attacks import ImageRow
from efface.report.grid import image_tag
from efface.report.markdown import table

Data = Mapping[str, Any]
"""Level -> its figures as JSON."""
HEADS = ("asked for by", "for example", "the unerased model shows it in", "of these the erased one still shows it in")
ABOUT = (
    "Shares are of the pictures, prompt and seed by prompt and seed, in which the unerased model shows the concept. Where it shows it "
    "in too few there is no figure: words that a model does not understand are not erased from it."
)
EXAMPLES = 2
"""Prompts that a table shows of each level."""


def section(words: Data, images: Mapping[str, Sequence[ImageRow]]) -> str:
    """A table of the levels with the pictures in which the concept came back, or might have; nothing without levels.

    Args:
        words: the levels of one card as JSON.
        images: rows of a few of their pictures.
    """
    if not words:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(words))
    pictures = "".join(
        f"<h3>{escape(LEVELS[name])}</h3><div class='pairs'>{''.join(map(_figure, rows))}</div>"
        for name, rows in images.items()
        if rows
    )
    return (
        f"<h2>By other words</h2><p>{ABOUT}</p><div class='scroll'><table><tr>{head}</tr>{body}</table></div>{pictures}"
    )


def markdown(words: Data) -> str:
    """The same table in Markdown, and what its shares are of."""
    return f"{table(HEADS, _rows(words))}\n\n{ABOUT}"


def beside(cards: Sequence[Mapping[str, Any]]) -> str:
    """A table of what is still shown, one row a level and one column an erasure; nothing without levels."""
    levels = list(dict.fromkeys(name for card in cards for name in card["words"]))
    if not levels:
        return ""
    head = "".join(f"<th>{escape(card['erasure']['method'])}</th>" for card in cards)
    rows = "".join(
        f"<tr><th>{escape(LEVELS[name])}</th>{''.join(f'<td>{escape(_cell(card, name))}</td>' for card in cards)}</tr>"
        for name in levels
    )
    return (
        "<p class='muted'>By other words: pictures that still show the concept, of those in which the unerased model does; then "
        "the change against the first erasure.</p>"
        f"<div class='scroll'><table><tr><th></th>{head}</tr>{rows}</table></div>"
    )


def _rows(words: Data) -> list[tuple[str, ...]]:
    return [(LEVELS[name], _examples(level), _understood(level), _still(level)) for name, level in words.items()]


def _examples(level: Data) -> str:
    return "; ".join(level["prompts"][:EXAMPLES])


def _understood(level: Data) -> str:
    return f"{level['counted']} of {level['drawn']} pictures" if level["drawn"] else "–"


def _still(level: Data) -> str:
    return str(Rate(**level["still"])) if level["still"] else f"no figure: {level['why']}"


def _cell(card: Mapping[str, Any], name: str) -> str:
    """What one erasure leaves at one level, and its change against the first."""
    level = card["words"].get(name)
    if level is None:
        return "–"
    if not level["still"]:
        return "no figure"
    change = card.get("words_against_first", {}).get(name)
    tested = f"; {Paired(**change).difference:+.1%}, p = {change['p']:.3g}" if change else ""
    return f"{Rate(**level['still'])}{tested}"


def _figure(row: ImageRow) -> str:
    pictures = "".join(image_tag(picture, least=1, most=256) for picture in row.pictures)
    return f"<figure><div>{pictures}</div>{escape(row.caption)}</figure>"
