"""From the verdicts of the canvas's protocol to the rows of its table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from efface.bench import manifest as runs
from efface.bench.ledger import Ledger
from efface.bench.protocols.canvas.attack_cells import cells_of
from efface.bench.protocols.canvas.many import survivors, unknown_of
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.targets import Edit, Kind, Target
from efface.bench.protocols.canvas.word_cells import cells_of as word_cells_of
from efface.bench.table import Cell, Row
from efface.bench.unit import Setting, Unit, sha256_of, units_of
from efface.concepts.sample import Sample
from efface.erasures import Erasure
from efface.errors import EffaceError
from efface.judges.criterion import recorded_as_shown
from efface.metrics.rates import Paired, Rate, paired, rate


class JudgedPicture(NamedTuple):
    """A picture of the canvas, and whether it shows what it should."""

    prompt: int
    """Number of its prompt; pictures of one prompt are resampled together."""
    wanted: tuple[str, str]
    """The object and the style that the prompt asks for."""
    shown: tuple[bool, bool]
    """Whether it shows that object, and that style, by the criterion."""
    intact: bool
    """Whether the object judge takes it for a whole drawing."""


class Column(NamedTuple):
    """One rate of the table."""

    name: str
    counts: Callable[[JudgedPicture], bool]
    """Whether a picture counts."""
    hit: Callable[[JudgedPicture], bool]
    """Whether a picture that counts is one of the share."""


def columns_of(target: Target) -> list[Column]:
    """The rates of UnlearnCanvas, the first of what is erased and the others of what stays.

    For objects and styles: UA (pictures of what is erased that no longer show it), IRA (the others of its domain that
    show theirs), CRA (all pictures whose other domain is right). For a pair: UA (its pictures that do not show both), OC
    (the object in other styles), SC (the style on other objects), UP (unrelated prompts that show both). For a list of objects:
    gone, what is kept of the objects that the erasure knows and of those that it does not, and of the styles of both.
    """
    kind, gone, first = target.kind, target.gone, target.edits[0]
    if target.mode == "many":
        known, unknown = first.known or (), unknown_of(first)
        return [
            Column("gone", lambda p: p.wanted[0] in gone, lambda p: not p.shown[0]),
            Column("kept known", lambda p: p.wanted[0] in known, lambda p: p.shown[0]),
            Column("kept unknown", lambda p: p.wanted[0] in unknown, lambda p: p.shown[0]),
            Column("style", lambda p: p.wanted[0] in (*known, *unknown), lambda p: p.shown[1]),
        ]
    if kind == "pairs":
        name, style = gone
        return [
            Column("UA", lambda p: p.wanted == (name, style), lambda p: not all(p.shown)),
            Column("OC", lambda p: p.wanted[0] == name and p.wanted[1] != style, lambda p: p.shown[0]),
            Column("SC", lambda p: p.wanted[1] == style and p.wanted[0] != name, lambda p: p.shown[1]),
            Column("UP", lambda p: name != p.wanted[0] and style != p.wanted[1], lambda p: all(p.shown)),
        ]
    own = 0 if kind == "objects" else 1
    other = 1 - own
    return [
        Column("UA", lambda p: p.wanted[own] in gone, lambda p: not p.shown[own]),
        Column("IRA", lambda p: p.wanted[own] not in gone, lambda p: p.shown[own]),
        Column("CRA", lambda p: True, lambda p: p.shown[other]),
    ]


class Worst(NamedTuple):
    """What suffered most."""

    name: str
    drop: float
    """Share of its pictures that showed it before and do not now."""


class Results:
    """What a run of the canvas's protocol has recorded; the model is not needed.

    Args:
        plan: of the run.
        setting: of its units.
        folder: with `erasures/`.
        ledger: with the verdicts.
    """

    def __init__(self, plan: Plan, setting: Setting, folder: Path, ledger: Ledger):
        self.plan = plan
        self.setting = setting
        self.folder = folder
        self.ledger = ledger
        self.read: dict[tuple[str, ...], list[JudgedPicture]] = {}

    def path(self, method: str, edit: Edit) -> Path:
        """File of an erasure."""
        return self.folder / "erasures" / f"{method}-{edit.label}.safetensors"

    def files(self, method: str, target: Target) -> list[Path]:
        """Files of a row's erasures, in the order in which they are attached."""
        return [self.path(method, edit) for edit in target.edits]

    def units(self, erasures: Sequence[str]) -> list[Unit]:
        """All pictures of one model, erased or not."""
        return units_of(self.setting, erasures, self.plan.work)

    def judged(self, files: Sequence[Path]) -> list[JudgedPicture]:
        """Every picture of one model, in the plan's order; raises EffaceError where the run is not at its end."""
        erasures = tuple(map(sha256_of, files))
        if erasures not in self.read:
            entries = [entry for unit in self.units(erasures) for entry in self.ledger.result(unit)]
            numbers = {pair: number for number, pair in enumerate(self.plan.pairs)}
            self.read[erasures] = [
                _picture(numbers[sample.shows[0], sample.shows[1]], sample, entry)
                for sample, entry in zip(self.plan.samples, entries, strict=True)
            ]
        return self.read[erasures]

    def rows(self) -> list[Row]:
        """The rows of the table, the unerased model's first, from the ledger alone."""
        kinds: list[Kind] = list(dict.fromkeys(target.kind for target in self.plan.targets))
        erased = [
            self._row(method, target)
            for method in self.plan.methods
            for target in self.plan.targets
            if not self.refusal(method, target)
        ]
        return [*(self._unerased(kind) for kind in kinds), *erased]

    def refusal(self, method: str, target: Target) -> str:
        """Why a row has no erasure, in the method's own words; empty where it has one."""
        path = refusal_file(self.path(method, target.edits[0]))
        return path.read_text() if path.exists() else ""

    def worst(self, method: str, target: Target) -> Worst:
        """The object that stays and lost the most pictures."""
        drops: dict[str, list[int]] = {}
        stays = survivors(target.gone)
        for was, now in zip(self.judged(()), self.judged(self.files(method, target)), strict=True):
            if now.wanted[0] in stays:
                drops.setdefault(now.wanted[0], []).append(was.shown[0] - now.shown[0])
        shares = {name: sum(values) / len(values) for name, values in drops.items()}
        name = max(shares, key=lambda n: shares[n])
        return Worst(name, shares[name])

    def remarks(self) -> list[str]:
        """What a reader of a table of lists must know: what was refused, and the object that suffered most."""
        if self.plan.mode != "many":
            return []
        sentences = []
        for method in self.plan.methods:
            for target in self.plan.targets:
                if reason := self.refusal(method, target):
                    sentences.append(f"{method}, {target.title}: refused, {reason}")
                    continue
                name, drop = self.worst(method, target)
                lost = f"{name!r} suffered most, {100 * drop:.0f} points" if drop > 0 else "nothing that stays suffered"
                sentences.append(f"{method}, {target.title}: {lost}.")
        return sentences

    def _unerased(self, kind: Kind) -> Row:
        """The unerased model's own row: the same rates over all pictures, as if each had been erased or retained."""
        pictures = self.judged(())
        prompts = [p.prompt for p in pictures]
        nothing = Target(self.plan.mode, (Edit(kind, ("", "")),))
        cells: dict[str, Cell] = {c.name: rate([c.hit(p) for p in pictures], prompts) for c in columns_of(nothing)}
        cells |= {"intact": rate([p.intact for p in pictures], prompts), "s a picture": self._each(())}
        return Row(name="unerased", method="", concepts=f"all {kind}", cells=cells)

    def _row(self, method: str, target: Target) -> Row:
        files = self.files(method, target)
        before = self.judged(())
        after = self.judged(files)
        columns = columns_of(target)
        cells: dict[str, Cell] = {}
        drops: dict[str, Cell] = {}
        for column in columns:
            members = [i for i, p in enumerate(after) if column.counts(p)]
            now, was = ([column.hit(pictures[i]) for i in members] for pictures in (after, before))
            prompts = [after[i].prompt for i in members]
            cells[column.name] = rate(now, prompts)
            if column is not columns[0]:
                drops[f"{column.name} drop"] = paired(now, was, prompts)
        erased = [p for p in after if columns[0].counts(p)]
        cells |= drops | {"intact": rate([p.intact for p in erased], [p.prompt for p in erased])}
        if target.mode == "many":
            worst = self.worst(method, target)
            cells["worst drop"] = Paired(difference=worst.drop, low=math.nan, high=math.nan, p=math.nan)
        cells["s a picture"] = self._each(files)
        stem = files[-1].stem
        cells |= word_cells_of(self.folder, stem) | _spent(files) | cells_of(self.folder, stem)
        kind = target.kind if target.mode in ("single", "pairs") else ""
        if target.mode == "many":
            kind = f"lists of {len(target.gone)}"
        return Row(name=stem, method=method, concepts=target.title, cells=cells, kind=kind)

    def _each(self, files: Sequence[Path]) -> float:
        """Seconds of drawing a picture, without judging."""
        units = self.units(tuple(map(sha256_of, files)))
        return self.ledger.seconds(units) / len(self.plan.work)


def _picture(number: int, sample: Sample, entry: dict[str, Any]) -> JudgedPicture:
    """What was recorded of a picture, and whether it shows what its sample asks for."""
    name, style = sample.shows
    return JudgedPicture(
        prompt=number,
        wanted=(name, style),
        shown=(recorded_as_shown(entry["object"], name), recorded_as_shown(entry["style"], style)),
        intact=entry["object"]["intact"],
    )


def _spent(files: Sequence[Path]) -> dict[str, Cell]:
    """What making the erasures took: seconds, peak memory, and bytes."""
    notes = [Erasure.load(path).provenance.notes for path in files]
    cells: dict[str, Cell] = {}
    if shares := [float(n["identical"]) for n in notes if "identical" in n]:
        cells["identical"] = Rate(value=min(shares), low=math.nan, high=math.nan, pictures=0)
    cells["seconds"] = sum(float(n.get("seconds", 0.0)) for n in notes)
    peaks = [float(n["peak_mb"]) for n in notes if "peak_mb" in n]
    return cells | ({"peak MB": max(peaks)} if peaks else {}) | {"bytes": sum(path.stat().st_size for path in files)}


def refusal_file(erasure: Path) -> Path:
    """Where it stands why an erasure could not be made."""
    return erasure.with_suffix(".refused.txt")


def results_of(folder: Path, record: runs.Record) -> Results:
    """What a run folder of this protocol holds.

    Raises:
        EffaceError: the plan is not one of this version's.
    """
    known = {field.name for field in dataclasses.fields(Plan)}
    if not set(record.plan) <= known:
        raise EffaceError(f"{folder} was planned by another version of efface: update efface.")
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in record.plan.items()}
    return Results(Plan(**fields), record.setting, folder, Ledger(folder / "ledger.sqlite"))
