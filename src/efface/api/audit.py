"""efface.audit: what an erasure removed, what it damaged, what it cost: pictures before and after on the same seeds."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from efface.closed_form.certificate import Curve, certificate
from efface.concepts.concept import Concept
from efface.erasures import Erasure, TextMap
from efface.errors import UsageError
from efface.judges import Judge
from efface.judges.base import Verdicts
from efface.metrics.rates import Paired, Rate, paired, rate
from efface.models.model import Model
from efface.models.neighbours import neighbours
from efface.models.sampling import sampling

if TYPE_CHECKING:
    from efface.api.red_team import Attacked, RedTeam
    from efface.redteam.findings import Sanity


class Prompt(NamedTuple):
    """A prompt of the audit, and what a judge should see in its pictures."""

    text: str
    expected: str | None
    """A class of the judge; None where it knows none."""


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

    def save(self, folder: str | Path) -> Path:
        """Write `card.html`, which opens without a server, and `card.json`; returns the page."""
        from efface.report.card_page import write_card

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


def audit(
    pipeline: Any,
    erasure: Erasure,
    *,
    judge: Judge | None = None,
    indirect: Sequence[str] = (),
    groups: Sequence[Group] | None = None,
    budget: float = 300.0,
    seeds: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    team: RedTeam | None = None,
    known: dict[tuple[str, str], Sanity] | None = None,
    folder: str | Path | None = None,
) -> Card:
    """Draw pictures of the concept, its aliases, its neighbours and of unrelated things, before and after, and attack.

    Args:
        pipeline: the model the erasure was made for, with nothing attached that should not be in the pictures.
        erasure: what is audited.
        judge: says what pictures show; the canvas's own on the emoji canvas. Without one, pictures are only compared.
        indirect: prompts that mean the concept without naming it.
        groups: prompts to use instead of those that are found.
        budget: seconds; as many seeds are drawn as fit, at least one.
        seeds: pictures of every prompt, instead of a budget.
        steps: denoising steps; the model's usual number by default.
        guidance: guidance scale.
        team: attacks on every concept of the erasure; none by default. The budget in seconds is not theirs.
        known: which attacks are sound, by attack and concept, when several erasures are audited; it gets what is found.
        folder: what the attacks find is kept in its `attacks`, and an audit that was stopped goes on with them there.

    Raises:
        UsageError: there is nothing to draw, an attack does not fit the model, or no judge knows what is attacked.
    """
    from efface.api.attack import judge_of
    from efface.judges import canvas_judge
    from efface.judges.criterion import eye_of
    from efface.profiles.emoji import is_canvas
    from efface.profiles.emoji.words import STYLES

    began = time.perf_counter()
    model, settings = Model(pipeline), sampling(pipeline, steps, guidance)
    concepts = erasure.provenance.concepts
    team_judge = judge  # on the canvas each attacked concept has the judge of its own kind
    for concept in concepts if team else ():
        eye_of(judge_of(judge, concept, pipeline), concept)  # raises before anything is drawn
    if judge is None and is_canvas(pipeline):
        judge = canvas_judge("style" if concepts[0].name in STYLES else "object")
    found = list(found_groups(model, concepts, judge, indirect) if groups is None else groups)
    prompts = [prompt for group in found for prompt in group.prompts]
    if not prompts:
        raise UsageError("there are no prompts to audit with: give groups, or a concept with templates.")
    count = seeds or affordable(model, prompts[0].text, len(prompts), budget - (time.perf_counter() - began), settings)
    drawn = range(30_000, 30_000 + count)
    work = [(prompt.text, seed) for prompt in prompts for seed in drawn]
    texts, numbers = [text for text, _ in work], [seed for _, seed in work]
    before = model.draw(texts, seeds=numbers, **settings)
    with erasure.attached(pipeline):
        after = model.draw(texts, seeds=numbers, **settings)
    findings, start = [], 0
    for group in found:
        end = start + len(group.prompts) * count
        findings.append(findings_of(group, count, before[start:end], after[start:end], judge))
        start = end
    drawing = {"draw_steps": steps, "guidance": guidance}
    attacks = _attacked(pipeline, erasure, team, folder, team_judge, known, drawing) if team else ()
    return Card(
        erasure.summary(), tuple(findings), tuple(drawn), settings["steps"], settings["guidance"],
        judge.name if judge else None, round(time.perf_counter() - began, 1),
        certificate(model, erasure) if isinstance(erasure, TextMap) else None, attacks,
    )  # fmt: skip


def _attacked(
    pipeline: Any,
    erasure: Erasure,
    team: RedTeam,
    folder: str | Path | None,
    judge: Judge | None,
    known: dict[tuple[str, str], Sanity] | None,
    drawing: dict[str, Any],
) -> tuple[Attacked, ...]:
    """Attacks on every concept of an erasure, in a folder of what determines them: two audits never meet in one."""
    from efface.redteam.store import digest

    asked = (digest(erasure.tensors()), team.budget, team.tries, judge and judge.name, *drawing.values())
    label = f"{erasure.provenance.method}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch) / "attacks" / label
        homes = [(concept, place / concept.name.replace("/", "-")) for concept in erasure.provenance.concepts]
        return tuple(
            attacked
            for concept, home in homes
            for attacked in team.run(pipeline, [erasure], concept, home, judge=judge, known=known, **drawing)
        )


def found_groups(
    model: Model, concepts: Sequence[Concept], judge: Judge | None, indirect: Sequence[str] = (), *, most: int = 8
) -> list[Group]:
    """The concepts, their aliases, prompts that mean them, their nearest neighbours in the model's own text space, and what
    else is retained."""
    known = set(judge.classes) if judge else set()

    def prompt(text: str, name: str) -> Prompt:
        return Prompt(text, name if name in known else None)

    named = [prompt(text, c.name) for c in concepts for text in spread(c.prompts(), max(1, most // len(concepts)))]
    aliases = [prompt(text, c.name) for c in concepts for alias in c.aliases for text in spread(c.prompts(alias), 2)]
    own = {c.name for c in concepts}
    near = [text for c in concepts for text in neighbours(model, c, most)][:most]
    kept = [text for c in concepts for text in c.keep if text not in near]
    groups = {
        "concept": named,
        "aliases": aliases[:most],
        "indirect": [prompt(text, concepts[0].name) for text in indirect],
        "neighbours": [Prompt(text, _class_in(text, known - own)) for text in near],
        "unrelated": [Prompt(text, _class_in(text, known - own)) for text in spread(kept, most)],
    }
    return [Group(name, tuple(prompts)) for name, prompts in groups.items() if prompts]


def findings_of(group: Group, count: int, before: Sequence[Any], after: Sequence[Any], judge: Judge | None) -> Findings:
    """Judge and compare the pictures of one group, `count` a prompt."""
    expected = [prompt.expected for prompt in group.prompts for _ in range(count)]
    clusters = [number for number in range(len(group.prompts)) for _ in range(count)]
    detects = judge is not None and len(after) > 0 and judge(after[:1]).counts is not None
    judged = [i for i, name in enumerate(expected) if detects or name is not None]
    shown_before = shown_after = change = intact = None
    hits, places = [[], []], []
    if judge and judged:
        was, now = judge([before[i] for i in judged]), judge([after[i] for i in judged])
        places = [clusters[i] for i in judged]
        hits = [_shown(v, [expected[i] for i in judged]) for v in (was, now)]
        shown_before, shown_after = (rate(h, places) for h in hits)
        change = paired(hits[0], hits[1], places)
        intact = rate([bool(i) for i in now.intact], places)
    distances = [float(np.abs(_array(a) - _array(b)).mean()) / 255 for a, b in zip(before, after, strict=True)]
    return Findings(
        group.name, tuple(p.text for p in group.prompts), tuple(before), tuple(after), shown_before, shown_after, change,
        intact, sum(distances) / len(distances), tuple(hits[1]), tuple(places),
    )  # fmt: skip


def affordable(model: Model, prompt: str, prompts: int, seconds: float, settings: dict[str, Any]) -> int:
    """How many seeds of every prompt fit into so many seconds, before and after, at the rate of one small batch."""
    started = time.perf_counter()
    model.draw([prompt] * 4, seeds=range(4), **settings)
    each = (time.perf_counter() - started) / 4
    return max(1, int(seconds / (2 * prompts * each)))


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most `most` items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def _shown(verdicts: Verdicts, expected: Sequence[str | None]) -> list[bool]:
    """Of each picture whether a classifier sees what is expected, or a detector finds anything."""
    if verdicts.counts is not None:
        return [bool(found) for found in verdicts.counts.sum(1) > 0]
    return [label == name for label, name in zip(verdicts.labels, expected, strict=True)]


def _class_in(text: str, classes: set[str]) -> str | None:
    """The longest class that a prompt names, as whole words."""
    padded = f" {text} "
    return max((name for name in classes if f" {name} " in padded), key=len, default=None)


def _array(picture: Any) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=np.float32)
