"""The part of a card on attacks: how often the concept comes back, at what cost, and whether the attack can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from efface.metrics.rates import Rate
from efface.report.grid import embedded
from efface.report.plot import COLOURS

Data = Mapping[str, Any]
"""Findings as JSON, or why there are none."""
STYLE = ".three{width:12rem}.three img{width:32%}"
HEAD = "<tr><th>attack</th><th>without it</th><th>because of it</th><th>together (ASR)</th><th>cost</th><th>sanity</th></tr>"
WIDTH, HEIGHT, LEFT, BOTTOM = 360, 170, 34, 24
"""Of the plot, in units that are pixels on a phone."""


class Captioned(NamedTuple):
    """One try in pictures."""

    caption: str
    pictures: Sequence[Any]
    """The unerased model's, the erased one's, and what the attack made of it; where it was not attacked, the first two."""


def section(attacks: Sequence[Data], tries: Sequence[Sequence[Captioned]]) -> str:
    """A table of all attacks, a curve over their budgets, and the strongest tries of each in pictures.

    Args:
        attacks: the findings of each as JSON, or why there are none (`why`).
        tries: the strongest of each attack.
    """
    rows = "".join(map(_row, attacks))
    kept = [a for a in attacks if "why" not in a]
    shown = "".join(
        f"<h3>{escape(_title(a, attacks))}</h3><div class='pairs'>{''.join(map(_strip, some))}</div>"
        for a, some in zip(attacks, tries, strict=True)
        if "why" not in a
    )
    return (
        "<h2>What an attacker gets back</h2><p>Share of tries whose own prompt still draws the concept, that the attack "
        "brought back, and both together. An attack that fails where any attack must succeed is broken: it says nothing "
        f"about robustness.</p><div class='scroll'><table>{HEAD}{rows}</table></div>{_curves(kept)}"
        "<p class='muted'>Tries below, the strongest first: the unerased model, the erased one, and what the attack made of "
        f"it.</p>{shown}"
    )


def beside(cards: Sequence[Mapping[str, Any]]) -> str:
    """A table of ASR, one row an attack and one column an erasure; nothing without attacks."""
    named = list(dict.fromkeys((a["attack"], a["concept"]) for card in cards for a in card["attacks"]))
    if not named:
        return ""
    head = "".join(f"<th>{escape(card['erasure']['method'])}</th>" for card in cards)
    rows = []
    for name in named:
        found = [next((a for a in c["attacks"] if (a["attack"], a["concept"]) == name), None) for c in cards]
        cells = "".join(f"<td>{_asr(a) if a else '–'}</td>" for a in found)
        rows.append(f"<tr><th>{escape(name[0])} on {escape(name[1])}</th>{cells}</tr>")
    return (
        '<p class="muted">Under attack: tries that show the concept, with or without it.</p>'
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _row(attack: Data) -> str:
    title = f"<th>{escape(attack['attack'])}<br>on {escape(attack['concept'])}</th>"
    if "why" in attack:
        return f"<tr>{title}<td colspan='5'>not run: {escape(attack['why'])}</td></tr>"
    per = attack["per_success"]
    price = f"{_cost(per)} each success" if per else f"{_cost(attack['cost'])} for no success"
    sanity = attack["verdict"] if attack["sanity"] else "not checked"
    rates = (str(Rate(**attack[name])) for name in ("without", "because", "asr"))
    return f"<tr>{title}{''.join(f'<td>{escape(cell)}</td>' for cell in (*rates, price, sanity))}</tr>"


def _cost(cost: Data) -> str:
    return f"{cost['denoiser']:,} denoiser and {cost['encoder']:,} text encoder evaluations, {cost['seconds']:.0f} s"


def _asr(attack: Data) -> str:
    if "why" in attack:
        return "not run"
    return f"{Rate(**attack['asr'])}{' (broken)' if attack['broken'] else ''}"


def _curves(kept: Sequence[Data]) -> str:
    """ASR over the share of each attack's budget; broken attacks are dashed."""
    if not kept:
        return ""
    height = HEIGHT + 16 * len(kept)
    lines = []
    for number, attack in enumerate(kept):
        colour = f"rgb{COLOURS[number % len(COLOURS)]}"
        dashes = " stroke-dasharray='4 3'" if attack["broken"] else ""
        name, y = escape(_title(attack, kept)), HEIGHT + 12 + 16 * number
        lines.append(
            f"<polyline points='{_points(attack)}' fill='none' stroke='{colour}' stroke-width='2'{dashes}/>"
            f"<text x='{LEFT}' y='{y}' font-size='12' fill='{colour}'>{name}</text>"
        )
    axes = "".join(
        f"<text x='{x}' y='{y}' font-size='12'>{text}</text>"
        for x, y, text in ((0, 14, "100%"), (0, HEIGHT - BOTTOM, "0%"), (WIDTH - 110, HEIGHT - 6, "all of its budget"))
    )
    return (
        "<p>Tries that show the concept, over the budget of each attack (dashed where it is broken):</p>"
        f"<svg class='bar' viewBox='0 0 {WIDTH} {height}' role='img'>{axes}{''.join(lines)}</svg>"
    )


def _points(attack: Data) -> str:
    """From no budget to all of it."""
    curve = [(0.0, attack["without"]["value"]), *((p["done"], p["asr"]) for p in attack["curve"])]
    curve.append((1.0, curve[-1][1]))
    across, up = WIDTH - LEFT - 4, HEIGHT - BOTTOM - 10
    return " ".join(f"{LEFT + across * x:.1f},{10 + up * (1 - y):.1f}" for x, y in curve)


def _strip(strip: Captioned) -> str:
    pictures = "".join(embedded(picture, least=1, most=256) for picture in strip.pictures)
    return f"<figure class='three'><div>{pictures}</div>{escape(strip.caption)}</figure>"


def _title(attack: Data, attacks: Sequence[Data]) -> str:
    """The attack's name, with the concept's where there are several."""
    several = len({a["concept"] for a in attacks}) > 1
    return f"{attack['attack']} on {attack['concept']}" if several else attack["attack"]
