"""Names of activations, with a purity: what the rows on which one is strongest have in common, if anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.heads.head import SparseHead

UNNAMED = "unnamed"
TOP = 20
"""Rows on which an activation is strongest, among which its label is counted."""
PURE = 0.6
"""Share of them that must show the label."""
CHANCE = 0.01
"""Most likely that as many would show it if they were any rows: an activation of two rows has no name, however alike they are."""


class Name(NamedTuple):
    """What an activation stands for."""

    best: str
    """The concept that it stands for at most."""
    purity: float
    """Share of its strongest rows that show it."""
    named: bool
    """Whether that is enough for a name."""

    @property
    def label(self) -> str:
        """Its name, or `UNNAMED`."""
        return self.best if self.named else UNNAMED

    def __str__(self) -> str:
        return f"{self.best} {self.purity:.2f}" if self.named else f"{UNNAMED} ({self.best} {self.purity:.2f})"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"label": self.label} | self._asdict()


class Kind(NamedTuple):
    """The labels of one kind, and the head that tells them."""

    labels: Tensor
    """Which concepts a row shows (rows concepts)."""
    head: SparseHead


def names_of(activity: Tensor, kinds: Sequence[Kind]) -> list[Name]:
    """The name of every activation: the concept that it has most weight for, if enough of its strongest rows show it.

    One that no head gives a weight goes by the concept that most of those rows show: where several say the same, a sparse head
    takes one. Of several kinds the purer counts. Rows that show nothing of a kind are left out of it.

    Args:
        activity: activations of each row (rows all).
        kinds: each with a head of its own.
    """
    found = []
    for labels, head in kinds:
        shown = labels.bool().any(1)
        found.append(_of_kind(activity[shown], labels[shown].bool(), head))
    return [max(names, key=lambda name: (name.named, name.purity)) for names in zip(*found, strict=True)]


def _of_kind(activity: Tensor, labels: Tensor, head: SparseHead) -> list[Name]:
    """Names by the concepts of one kind."""
    weight = torch.zeros(len(head.concepts), activity.shape[1], dtype=torch.float64)
    weight[:, head.units] = head.weight.clamp(min=0)
    strength, rows = activity.topk(min(TOP, len(activity)), dim=0)  # (top all)
    active = strength > 0
    hits = torch.stack([(of_label[rows] & active).sum(0) for of_label in labels.T])  # (concepts all)
    label = torch.where(weight.any(0), weight.argmax(0), hits.argmax(0))
    base = labels.double().mean(0)[label].tolist()
    count = hits.gather(0, label[None])[0].tolist()
    names = []
    for concept, hit, of, share in zip(label.tolist(), count, active.sum(0).tolist(), base, strict=True):
        purity = hit / of if of else 0.0
        named = purity >= PURE and by_chance(hit, of, share) <= CHANCE
        names.append(Name(head.concepts[concept], purity, named))
    return names


@lru_cache(maxsize=65536)
def by_chance(hits: int, count: int, share: float) -> float:
    """Probability of at least `hits` in `count` draws that each hit with probability `share`."""
    if not 0 < share < 1:
        return float(share >= 1 or hits == 0)
    log = [math.lgamma(count + 1) - math.lgamma(i + 1) - math.lgamma(count - i + 1) for i in range(hits, count + 1)]
    terms = (c + i * math.log(share) + (count - i) * math.log1p(-share) for i, c in enumerate(log, hits))
    return min(1.0, sum(map(math.exp, terms)))
