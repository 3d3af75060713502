"""Paired tests of two erasures of the same concept, judged on the same prompts and seeds of the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from efface.bench.protocols.canvas.results import Results, columns_of
from efface.bench.protocols.canvas.targets import Target
from efface.bench.table import Cell, Row
from efface.metrics.rates import Paired, paired


class Entry(NamedTuple):
    """A method of a run."""

    label: str
    results: Results
    method: str


class Comparison(NamedTuple):
    """Two erasures on the same pictures."""

    concept: str
    """What both erase; "all objects" for the pictures of every concept of a kind together."""
    column: str
    """UA, IRA, CRA and so on."""
    first: str
    second: str
    change: Paired
    """Second less first."""
    pooled: bool

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; rates are shares."""
        return self._asdict() | {"change": self.change._asdict()}


class Hits(NamedTuple):
    """Pictures that count for one column of one concept."""

    first: list[bool]
    second: list[bool]
    clusters: list[tuple[int, int]]
    """Concept and prompt of each picture."""


def comparisons(entries: Sequence[Entry]) -> list[Comparison]:
    """Every two methods that were drawn alike, on every concept that both erased, and on all concepts of a kind together."""
    tested: list[Comparison] = []
    for first, second in combinations(entries, 2):
        if same_pictures(first.results, second.results):
            tested += _compared(first, second)
    return tested


def same_pictures(first: Results, second: Results) -> bool:
    """Whether two runs drew the same prompts and seeds by the same model, sampler and judges."""
    return first.setting == second.setting and first.plan.work == second.plan.work


def rows_of(tested: Sequence[Comparison]) -> list[Row]:
    """The comparisons as a table: a row for two methods and a concept, a cell and its p for each column."""
    rows: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for c in tested:
        cells = rows.setdefault((c.first, c.second, c.concept), {})
        cells |= {c.column: c.change, f"p ({c.column})": c.change.p}
    return [
        Row(name=f"{second} less {first}", method="", concepts=concept, cells=cells)
        for (first, second, concept), cells in rows.items()
    ]


def _compared(first: Entry, second: Entry) -> list[Comparison]:
    tested: list[Comparison] = []
    pools: dict[tuple[str, str], list[Hits]] = {}
    known = {target.title: target for target in second.results.plan.targets}
    shared = [
        (i, t)
        for i, t in enumerate(first.results.plan.targets)
        if known.get(t.title) == t and not any(e.results.refusal(e.method, t) for e in (first, second))
    ]
    for number, target in shared:
        for column in columns_of(target):
            hits = _hits(first, second, target, number, column.name)
            pools.setdefault((target.kind, column.name), []).append(hits)
            tested.append(_tested(target.title, column.name, first, second, [hits], pooled=False))
    pooled = [
        _tested(f"all {kind}", column, first, second, members, pooled=True)
        for (kind, column), members in pools.items()
        if len(members) > 1 and first.results.plan.mode in ("single", "pairs")
    ]
    return [*tested, *pooled]


def _hits(first: Entry, second: Entry, target: Target, number: int, name: str) -> Hits:
    column = next(c for c in columns_of(target) if c.name == name)
    one, two = (
        [p for p in e.results.judged(e.results.files(e.method, target)) if column.counts(p)] for e in (first, second)
    )
    return Hits([column.hit(p) for p in one], [column.hit(p) for p in two], [(number, p.prompt) for p in one])


def _tested(
    concept: str, column: str, first: Entry, second: Entry, members: Sequence[Hits], *, pooled: bool
) -> Comparison:
    clusters = {key: i for i, key in enumerate(dict.fromkeys(key for m in members for key in m.clusters))}
    change = paired(
        [hit for m in members for hit in m.first],
        [hit for m in members for hit in m.second],
        [clusters[key] for m in members for key in m.clusters],
    )
    return Comparison(
        concept=concept, column=column, first=first.label, second=second.label, change=change, pooled=pooled
    )
