"""The part of a card on attacks: how often the concept comes back, at what cost, and whether the attack can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from efface.metrics.rates import Rate
from efface.report.grid import image_tag
from efface.report.plot import COLOURS
from efface.report.svg import PlotArea

Data = Mapping[str, Any]
"""Findings as JSON, or why there are none."""
STYLE = ".three{width:12rem}.three img{width:32%}"
HEAD = "<tr><th>attack</th><th>without it</th><th>because of it</th><th>together (ASR)</th><th>cost</th><th>sanity</th></tr>"
WIDTH, HEIGHT = 360, 170
"""Size of the plot, in units that are pixels on a phone."""
AREA = PlotArea(left=34, right=WIDTH - 4, top=10, bottom=HEIGHT - 24)


class ImageRow(NamedTuple):
    """The pictures of one sample."""

    caption: str
    pictures: Sequence[Image.Image]
    """The unerased model's, the erased one's, and what the attack made of it; where it was not attacked, the first two."""


def section(attacks: Sequence[Data], samples: Sequence[Sequence[ImageRow]]) -> str:
    """A table of all attacks, a curve over their budgets, and the strongest samples of each in pictures.

    Args:
        attacks: the findings of each as JSON, or why there are none (`why`).
        samples: the strongest of each attack.
    """
    rows = "".join(map(_row, attacks))
    complete = [a for a in attacks if "why" not in a]
    pictures = "".join(
        f"<h3>{escape(_title(a, attacks))}</h3><div class='pairs'>{''.join(map(_figure, strongest))}</div>"
        for a, strongest in zip(attacks, samples, strict=True)
        if "why" not in a
    )
    return (
        "<h2>What an attacker gets back</h2><p>Share of samples whose own prompt still draws the concept, that the attack "
        "brought back, and both together. An attack that fails where any attack must succeed is broken: it says nothing "
        f"about robustness.</p><div class='scroll'><table>{HEAD}{rows}</table></div>{_curves(complete)}"
        "<p class='muted'>Samples below, the strongest first: the unerased model, the erased one, and what the attack made of "
        f"it.</p>{pictures}"
    )


def beside(cards: Sequence[Mapping[str, Any]]) -> str:
    """A table of ASR, one row an attack and one column an erasure; nothing without attacks."""
    pairs = list(dict.fromkeys((a["attack"], a["concept"]) for card in cards for a in card["attacks"]))
    if not pairs:
        return ""
    head = "".join(f"<th>{escape(card['erasure']['method'])}</th>" for card in cards)
    rows = []
    for name, concept in pairs:
        cells = "".join(f"<td>{_cell(card['attacks'], name, concept)}</td>" for card in cards)
        rows.append(f"<tr><th>{escape(name)} on {escape(concept)}</th>{cells}</tr>")
    return (
        '<p class="muted">Under attack: samples that show the concept, with or without it.</p>'
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _row(attack: Data) -> str:
    title = f"<th>{escape(attack['attack'])}<br>on {escape(attack['concept'])}</th>"
    if "why" in attack:
        return f"<tr>{title}<td colspan='5'>not run: {escape(attack['why'])}</td></tr>"
    per = attack["per_success"]
    price = f"{_cost(per)} each success" if per else f"{_cost(attack['cost'])} for no success"
    sanity = attack["verdict"] if attack["sanity"] else "not checked"
    if restored := attack.get("restoration"):  # of leaks
        sanity = f"{sanity}; restoration share {restored['line']}"
    rates = (str(Rate(**attack[name])) for name in ("pre_asr", "gained", "asr"))
    return f"<tr>{title}{''.join(f'<td>{escape(cell)}</td>' for cell in (*rates, price, sanity))}</tr>"


def _cost(cost: Data) -> str:
    return f"{cost['denoiser']:,} denoiser and {cost['encoder']:,} text encoder evaluations, {cost['seconds']:.0f} s"


def _cell(attacks: Sequence[Data], name: str, concept: str) -> str:
    """The ASR of one attack on one concept."""
    attack = next((a for a in attacks if (a["attack"], a["concept"]) == (name, concept)), None)
    if attack is None:
        return "–"
    if "why" in attack:
        return "not run"
    return f"{Rate(**attack['asr'])}{' (broken)' if attack['broken'] else ''}"


def _curves(attacks: Sequence[Data]) -> str:
    """ASR over the share of each attack's budget; broken attacks are dashed."""
    if not attacks:
        return ""
    height = HEIGHT + 16 * len(attacks)
    lines = []
    for number, attack in enumerate(attacks):
        colour = f"rgb{COLOURS[number % len(COLOURS)]}"
        y = HEIGHT + 12 + 16 * number
        lines.append(
            f"{AREA.line(_points(attack), colour=colour, dashed=attack['broken'])}"
            f"<text x='{AREA.left}' y='{y}' font-size='12' fill='{colour}'>{escape(_title(attack, attacks))}</text>"
        )
    axes = "".join(
        f"<text x='{x}' y='{y}' font-size='12'>{text}</text>"
        for x, y, text in ((0, 14, "100%"), (0, AREA.bottom, "0%"), (WIDTH - 110, HEIGHT - 6, "all of its budget"))
    )
    return (
        "<p>Samples that show the concept, over the budget of each attack (dashed where it is broken):</p>"
        f"<svg class='bar' viewBox='0 0 {WIDTH} {height}' role='img'>{axes}{''.join(lines)}</svg>"
    )


def _points(attack: Data) -> list[tuple[float, float]]:
    """Share of the budget and ASR, from no budget to all of it."""
    curve = [(0.0, attack["pre_asr"]["value"]), *((point["done"], point["asr"]) for point in attack["curve"])]
    _, last = curve[-1]
    return [*curve, (1.0, last)]


def _figure(row: ImageRow) -> str:
    pictures = "".join(image_tag(picture, least=1, most=256) for picture in row.pictures)
    return f"<figure class='three'><div>{pictures}</div>{escape(row.caption)}</figure>"


def _title(attack: Data, attacks: Sequence[Data]) -> str:
    """The attack's name, with the concept's where there are several."""
    several = len({a["concept"] for a in attacks}) > 1
    return f"{attack['attack']} on {attack['concept']}" if several else attack["attack"]
