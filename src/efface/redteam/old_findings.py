"""Format 1 of `findings.json`, which earlier versions wrote, as format 2."""

from __future__ import annotations

from typing import Any

from efface.judges.criterion import Verdict
from efface.metrics.rates import Rate
from efface.redteam.cost import Cost
from efface.redteam.result import TracePoint


def upgrade(data: dict[str, Any]) -> dict[str, Any]:
    """Findings of format 1 with the names of format 2; raises KeyError or TypeError where they are damaged."""
    sanity = data["sanity"]
    if sanity:
        unerased, weak, least = sanity
        sanity = {"unerased": Rate(*unerased)._asdict(), "weak": weak and Rate(*weak)._asdict(), "least": least}
    return data | {"samples": [_sample(item, data["concept"]) for item in data["tries"]], "sanity": sanity}


def _sample(item: dict[str, Any], concept: str) -> dict[str, Any]:
    """One result, whose records were lists without names."""
    sample = {"prompt": item["prompt"], "seed": item["seed"], "shows": [concept], "guidance": None, "name": ""}
    kept = {name: item[name] for name in ("number", "text", "ids", "tensors")}
    return kept | {
        "sample": sample,
        "before": Verdict(*item["before"])._asdict(),
        "after": Verdict(*item["after"])._asdict(),
        "retokenizes": item["survives"],
        "cost": Cost(*item["cost"])._asdict(),
        "trace": [TracePoint(*look)._asdict() for look in item["looks"]],
    }
