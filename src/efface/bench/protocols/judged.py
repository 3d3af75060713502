"""What any judge says of pictures, as cells: counts of a detector, shares of a classifier's labels."""

from __future__ import annotations

from collections.abc import Sequence

from efface.bench.protocols.base import Entries, Observations
from efface.bench.table import Cell, Count
from efface.judges.criterion import recorded_as_shown
from efface.metrics.rates import paired, rate

MOST = 12
"""Labels of a classifier that have a column of their own; of more, only agreement with the unerased model is shown."""


def findings(
    observed: Observations, name: str, classes: Sequence[str], clusters: Sequence[int] | None = None
) -> dict[str, Cell]:
    """The cells of one judge.

    Args:
        observed: what it recorded under `name`, for every picture.
        name: its short name.
        classes: its classes.
        clusters: number of each picture's prompt, where prompts have several pictures.
    """
    if observed.after and "counts" in observed.after[0][name]:
        return _counted(observed, name, classes, clusters)
    labels = [entry[name]["label"] for entry in observed.after]
    cells: dict[str, Cell] = {}
    if len(classes) <= MOST:
        cells |= {label: rate([other == label for other in labels], clusters) for label in classes}
    if observed.erasure is not None:
        same = [a == b[name]["label"] for a, b in zip(labels, observed.before, strict=True)]
        cells["label as before"] = rate(same, clusters)
    if not all(entry[name]["intact"] for entry in (*observed.before, *observed.after)):
        cells["intact"] = rate([entry[name]["intact"] for entry in observed.after], clusters)
    return cells


def _counted(
    observed: Observations, name: str, classes: Sequence[str], clusters: Sequence[int] | None
) -> dict[str, Cell]:
    now = _any(observed.after, name)
    before = _any(observed.before, name)
    cells: dict[str, Cell] = {"pictures with any": rate(now, clusters)}
    if observed.erasure is not None:
        cells["change"] = paired(before, now, clusters)
    counts = [entry[name]["counts"] for entry in observed.after]
    cells["all classes"] = Count(sum(sum(c.values()) for c in counts), sum(now))
    for label in classes:
        cells[label] = Count(sum(c.get(label, 0) for c in counts), sum(c.get(label, 0) > 0 for c in counts))
    return cells


def _any(entries: Entries, name: str) -> list[bool]:
    return [recorded_as_shown(entry[name], None) for entry in entries]
