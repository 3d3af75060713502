"""Card: the result of an audit, as an object, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.closed_form.certificate import Curve
from efface.concepts.sample import Prompt
from efface.io.atomic import write_atomically
from efface.metrics.rates import Paired, Rate, paired
from efface.report.card_page import CardImages, page

if TYPE_CHECKING:
    from efface.api.red_team import Attacked


class Group(NamedTuple):
    """Prompts that are looked at together."""

    name: str
    """`concept`, `aliases`, `indirect`, `neighbours` or `unrelated`."""
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Findings:
    """What the pictures of one group show."""

    name: str
    prompts: tuple[str, ...]
    before: tuple[Any, ...]
    """Pictures of the unerased model, seeds within a prompt."""
    after: tuple[Any, ...]
    shown_before: Rate | None
    """Share of pictures that show what their prompt names, or in which a detector finds something; None without a judge
    that can tell."""
    shown_after: Rate | None
    change: Paired | None
    """After less before, picture by picture."""
    intact: Rate | None
    """Share of the erased model's pictures that are whole, where the judge can tell."""
    distance: float
    """Mean absolute difference of the pictures, 0 to 1."""
    hits: tuple[bool, ...] = ()
    """Whether each judged picture of the erased model shows it, in the order of the pictures."""
    places: tuple[int, ...] = ()
    """Number of the prompt of each judged picture."""


@dataclass(frozen=True)
class Card:
    """The report of an erasure."""

    erasure: dict[str, Any]
    """What `efface show` prints."""
    groups: tuple[Findings, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    judge: str | None
    """Name and version."""
    seconds: float
    """Of the audit."""
    certificate: Curve | None = None
    """What states of bounded norm can bring back, for text maps."""
    attacks: tuple[Attacked, ...] = ()
    """What attacks brought back."""

    def to_json(self) -> dict[str, Any]:
        """Every number of the card, without its pictures."""
        return {
            "erasure": self.erasure,
            "judge": self.judge,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "guidance": self.guidance,
            "seconds": self.seconds,
            "certificate": self.certificate and self.certificate._asdict(),
            "attacks": [attacked.to_json() for attacked in self.attacks],
            "groups": {
                g.name: {
                    "prompts": list(g.prompts),
                    "pictures": len(g.after),
                    "shown_before": g.shown_before and g.shown_before._asdict(),
                    "shown_after": g.shown_after and g.shown_after._asdict(),
                    "change": g.change and g.change._asdict(),
                    "intact": g.intact and g.intact._asdict(),
                    "distance": g.distance,
                }
                for g in self.groups
            },
        }

    def images(self) -> CardImages:
        """The pictures of the page."""
        return CardImages(
            groups={g.name: (g.before, g.after) for g in self.groups},
            attacks=[[strip.captioned() for strip in attacked.strips] for attacked in self.attacks],
        )

    def save(self, folder: str | Path) -> Path:
        """Write `card.html`, which opens without a server, and `card.json`; returns the page."""
        return write_card(self, Path(folder))


def against(first: Card, second: Card) -> dict[str, Paired]:
    """Second less first in what is shown, by group: picture by picture, where prompts and seeds are the same."""
    if first.seeds != second.seeds:
        return {}
    earlier = {g.name: g for g in first.groups}
    return {
        g.name: paired(earlier[g.name].hits, g.hits, g.places)
        for g in second.groups
        if g.name in earlier and g.hits and (earlier[g.name].prompts, earlier[g.name].places) == (g.prompts, g.places)
    }


def write_card(card: Card, folder: Path) -> Path:
    """Write `card.html` and `card.json` into a folder, which is made if missing; returns the page."""
    return write_cards([card], folder)


def write_cards(cards: Sequence[Card], folder: Path) -> Path:
    """Write one page and one JSON file on several erasures, side by side where there are more than one."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [card.to_json() for card in cards]
    for entry, card in zip(data[1:], cards[1:], strict=True):
        entry["against_first"] = {name: change._asdict() for name, change in against(cards[0], card).items()}
    write_atomically(folder / "card.json", json.dumps(data[0] if len(data) == 1 else data, indent=1).encode())
    write_atomically(folder / "card.html", page(data, [card.images() for card in cards]).encode())
    return folder / "card.html"
