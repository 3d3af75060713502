"""What an audit draws and how it is compared: groups of prompts, and what their pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from efface.api.card import Findings, Group
from efface.concepts.concept import Concept
from efface.concepts.sample import Prompt
from efface.judges import Judge
from efface.judges.base import Verdicts
from efface.metrics.rates import paired, rate
from efface.models.model import Model
from efface.models.neighbours import neighbours


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
