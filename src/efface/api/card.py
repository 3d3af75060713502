"""Card: the result of an audit, as an object, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.closed_form.certificate import Curve
from efface.concepts.sample import Sample
from efface.io.atomic import write_atomically
from efface.judges.criterion import Verdict
from efface.metrics.rates import Paired, Rate, paired
from efface.report.card_page import CardImages, page

if TYPE_CHECKING:
    from efface.api.level_result import LevelResult
    from efface.api.red_team import AttackResult


class Group(NamedTuple):
    """Prompts that are looked at together."""

    name: str
    """`concept`, `aliases`, `indirect`, `neighbours` or `unrelated`."""
    samples: tuple[Sample, ...]
    """One a prompt; the audit draws each with seeds of its own."""


class Suffered(NamedTuple):
    """What was to be kept and changed most."""

    name: str
    """The concept, or the prompt where no judge knows what it shows."""
    shown_before: float | None
    """Share of its pictures that showed it; None where no judge can tell."""
    shown_after: float | None
    distance: float
    """Mean absolute difference of its pictures, 0 to 1."""

    def __str__(self) -> str:
        apart = f"pictures differ by {self.distance:.3f}"
        if self.shown_before is None or self.shown_after is None:
            return f"{self.name!r}: {apart}"
        return f"{self.name!r}: shown in {self.shown_before:.0%} → {self.shown_after:.0%}, {apart}"


ERASED = ("concept", "aliases", "indirect")
"""Groups of what was to go; all others were to be kept."""


@dataclass(frozen=True)
class GroupResult:
    """What the images of one group show."""

    name: str
    samples: tuple[Sample, ...]
    """One for each image."""
    before: tuple[Any, ...]
    """Images of the unerased model."""
    after: tuple[Any, ...]
    """Images of the erased model."""
    verdicts_before: tuple[Verdict | None, ...]
    """One for each image, on what its sample shows; None where no judge can tell."""
    verdicts_after: tuple[Verdict | None, ...]
    shown_before: Rate | None
    """Share of images that show what their sample names, or in which a detector finds something; None without a judge
    that can tell."""
    shown_after: Rate | None
    change: Paired | None
    """After less before, image by image."""
    intact: Rate | None
    """Share of the erased model's images that are whole, where the judge can tell."""
    distances: tuple[float, ...]
    """Mean absolute difference of each two images, 0 to 1."""

    @property
    def distance(self) -> float:
        """Mean absolute difference of the images, 0 to 1."""
        return sum(self.distances) / len(self.distances)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the samples, each once."""
        return tuple(dict.fromkeys(sample.prompt for sample in self.samples))

    @property
    def shown(self) -> list[tuple[Sample, bool]]:
        """The judged images of the erased model: each sample, and whether its image shows what it names."""
        verdicts = zip(self.samples, self.verdicts_after, strict=True)
        return [(sample, verdict.shown) for sample, verdict in verdicts if verdict is not None]


@dataclass(frozen=True)
class Card:
    """The report of an erasure."""

    erasure: dict[str, Any]
    """What `efface show` prints."""
    groups: tuple[GroupResult, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    judge: str | None
    """Name and version."""
    seconds: float
    """How long the audit took."""
    certificate: Curve | None = None
    """What states of bounded norm can bring back, for text maps."""
    attacks: tuple[AttackResult, ...] = ()
    """What attacks brought back."""
    words: tuple[LevelResult, ...] = ()
    """What other words bring back, level by level; why there are none stands among the decisions."""
    decisions: dict[str, Any] = field(default_factory=dict)
    """What was decided before anything was drawn: the model, where, how, by which judge."""

    @property
    def suffered(self) -> Suffered | None:
        """What was to be kept and lost the largest share of its pictures, or changed most where no judge can tell; None where
        nothing that was to be kept was drawn."""
        changes = [change for group in self.groups if group.name not in ERASED for change in _changes(group)]
        judged = [change for change in changes if change.sample.shows and change.lost is not None]
        by_name: dict[str, list[_Change]] = {}
        for change in judged or changes:
            by_name.setdefault(change.sample.concept or change.sample.prompt, []).append(change)
        found = [_suffered(name, members, judged=bool(judged)) for name, members in by_name.items()]
        return max(found, key=lambda s: ((s.shown_before or 0) - (s.shown_after or 0), s.distance), default=None)

    def to_json(self) -> dict[str, Any]:
        """Every number of the card, without its pictures."""
        return {
            "suffered": self.suffered and self.suffered._asdict(),
            "erasure": self.erasure,
            "judge": self.judge,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "guidance": self.guidance,
            "seconds": self.seconds,
            "decisions": self.decisions,
            "certificate": self.certificate and self.certificate._asdict(),
            "attacks": [result.to_json() for result in self.attacks],
            "words": {result.level: result.to_json() for result in self.words},
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
            attacks=[[triptych.image_row() for triptych in result.triptychs] for result in self.attacks],
            words={result.level: result.image_rows for result in self.words},
        )

    def save(self, folder: str | Path) -> Path:
        """Write `card.html`, which opens without a server, and `card.json`; returns the page."""
        return write_card(self, Path(folder))


class _Change(NamedTuple):
    """One picture before and after."""

    sample: Sample
    before: Verdict | None
    after: Verdict | None
    distance: float

    @property
    def lost(self) -> int | None:
        """Whether what it showed is gone; None where no judge can tell."""
        return None if self.before is None or self.after is None else self.before.shown - self.after.shown


def _changes(group: GroupResult) -> list[_Change]:
    """Every picture of a group before and after."""
    parts = zip(group.samples, group.verdicts_before, group.verdicts_after, group.distances, strict=True)
    return [_Change(sample=s, before=b, after=a, distance=d) for s, b, a, d in parts]


def _suffered(name: str, changes: Sequence[_Change], *, judged: bool) -> Suffered:
    """What became of one kept concept's pictures."""
    shares: list[float | None] = [None, None]
    if judged:
        sides = ([c.before for c in changes], [c.after for c in changes])
        shares = [sum(v.shown for v in side if v is not None) / len(side) for side in sides]
    distance = sum(c.distance for c in changes) / len(changes)
    return Suffered(name=name, shown_before=shares[0], shown_after=shares[1], distance=distance)


def against(first: Card, second: Card) -> dict[str, Paired]:
    """Second less first in what is shown, by group: picture by picture, where prompts and seeds are the same."""
    earlier = {group.name: group.shown for group in first.groups}
    changes = {}
    for group in second.groups:
        was = earlier.get(group.name, [])
        now = group.shown
        samples = [sample for sample, _ in now]
        if now and [sample for sample, _ in was] == samples:
            prompts = [group.prompts.index(sample.prompt) for sample in samples]
            changes[group.name] = paired([shown for _, shown in was], [shown for _, shown in now], prompts)
    return changes


def words_against(first: Card, second: Card) -> dict[str, Paired]:
    """Second less first in what other words still show, by level that has a figure: pair by pair, where the pairs are the same."""
    earlier = {result.level: result.counted for result in first.words if result.still}
    changes = {}
    for result in second.words:
        was, now = earlier.get(result.level, ()), result.counted
        if result.still and [pair.sample for pair in was] == [pair.sample for pair in now]:
            prompts = [result.prompts.index(pair.sample.prompt) for pair in now]
            changes[result.level] = paired([bool(p.after) for p in was], [bool(p.after) for p in now], prompts)
    return changes


def write_card(card: Card, folder: Path) -> Path:
    """Write `card.html` and `card.json` into a folder, which is made if missing; returns the page."""
    return write_cards([card], folder)


def write_cards(cards: Sequence[Card], folder: Path) -> Path:
    """Write one page and one JSON file on several erasures, side by side where there are more than one."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [card.to_json() for card in cards]
    for entry, card in zip(data[1:], cards[1:], strict=True):
        entry["against_first"] = {name: change._asdict() for name, change in against(cards[0], card).items()}
        changes = words_against(cards[0], card)
        entry["words_against_first"] = {name: change._asdict() for name, change in changes.items()}
    write_atomically(folder / "card.json", json.dumps(data[0] if len(data) == 1 else data, indent=1).encode())
    write_atomically(folder / "card.html", page(data, [card.images() for card in cards]).encode())
    return folder / "card.html"
