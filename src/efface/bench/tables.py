"""Tables of a protocol's lines: Markdown, CSV and JSON from the same data."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from efface.bench.protocols.canvas import Line
from efface.bench.rates import Rate

HEAD = ("method", "concept", "UA", "IRA drop", "CRA drop", "intact", "seconds", "bytes")


def rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One dictionary a line, rates in percent, and a mean for every method and kind."""
    found = [_row(line) for line in lines]
    groups = dict.fromkeys((line.method, line.kind) for line in lines)
    for method, kind in groups:
        members = [r for r, line in zip(found, lines, strict=False) if (line.method, line.kind) == (method, kind)]
        means = {
            k: sum(m[k] for m in members) / len(members)
            for k in ("ua", "ira_drop", "cra_drop", "intact", "seconds", "bytes")
        }
        found.append({"method": method, "concept": f"mean of {len(members)} {kind}", "kind": kind} | means)
    return found


def _row(line: Line) -> dict[str, Any]:
    return {
        "method": line.method, "concept": line.concept, "kind": line.kind, "ua": 100 * line.ua.value,
        "ua_interval": _interval(line.ua), "ira": 100 * line.ira.value, "ira_interval": _interval(line.ira),
        "ira_drop": 100 * line.ira_drop.difference, "ira_drop_interval": [100 * line.ira_drop.low, 100 * line.ira_drop.high],
        "ira_drop_p": line.ira_drop.p, "cra": 100 * line.cra.value, "cra_interval": _interval(line.cra),
        "cra_drop": 100 * line.cra_drop.difference, "cra_drop_interval": [100 * line.cra_drop.low, 100 * line.cra_drop.high],
        "cra_drop_p": line.cra_drop.p, "intact": 100 * line.intact.value, "seconds": line.seconds, "bytes": line.bytes,
    }  # fmt: skip


def _interval(rate: Rate) -> list[float]:
    return [100 * rate.low, 100 * rate.high]


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; intervals stand behind the rates of single concepts."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for r in found:
        cells = [r["method"], r["concept"]]
        cells += [_cell(r, name) for name in ("ua", "ira_drop", "cra_drop")]
        cells += [f"{r['intact']:.1f}", f"{r['seconds']:.2f}", f"{r['bytes']:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str) -> str:
    interval = row.get(f"{name}_interval")
    return f"{row[name]:.1f}" + (f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else "")


def as_csv(found: Sequence[dict[str, Any]]) -> str:
    """Comma-separated, without intervals."""
    names = ["method", "concept", "kind", "ua", "ira_drop", "cra_drop", "intact", "seconds", "bytes"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()
