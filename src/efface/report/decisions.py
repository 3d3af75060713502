"""What was decided before an erasure was made, in rows: the same before it starts, of its file, and on its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

FEW = 6
"""Retained prompts that are written out."""


def erasing_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that was decided, from an erasure's provenance as JSON.

    Files of an older efface hold no `decisions` among their notes; what they hold is shown all the same.
    """
    decided = data["notes"].get("decisions", {})
    by_name = {entry["name"]: entry for entry in decided.get("concepts", ())}
    concepts = [by_name.get(c["name"], {"name": c["name"], "kind": c["kind"]}) for c in data["concepts"]]
    rows = [("concepts", "; ".join(map(_concept, concepts)))]
    rows += [("read as", remark) for remark in decided.get("remarks", ())]
    if "model" in decided:
        rows.append(("model", where(decided)))
    rows.append(("retained", retained(data["keep"], decided.get("retained", ""))))
    options = {k: v for k, v in data["config"].items() if k not in ("keep", "coders") and v is not None}
    rows.append(("options", ", ".join(f"{name} {_text(value)}" for name, value in options.items())))
    if decided.get("judge"):
        rows.append(("judge", decided["judge"]))
    return rows


def base_of(base: Mapping[str, Any]) -> str:
    """What an erasure's file says of the model that it was made for: of format 1 a hash of its names and shapes, later what the
    erasure touches of it."""
    words = f"{base['family']}, text width {base['width']}"
    if "structure" in base:
        return f"{words}, structure {base['structure'][:12]}"
    counts = Counter(name.partition(".")[0] for name in base["tensors"])
    many = [f"{count} tensor{'s' if count > 1 else ''} of {component}" for component, count in counts.items()]
    return ", ".join([words, *many, *base["encoders"]])


def where(decided: Mapping[str, Any]) -> str:
    """A model, its device, its precision and the size of its pictures."""
    side = decided.get("side")
    width, height = side if isinstance(side, tuple | list) else (side, side)
    parts = [decided["device"], decided["dtype"], *([f"{width} x {height} pixels"] if side else [])]
    return f"{decided['model']} on {', '.join(parts)}"


def drawing_rows(decided: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what was decided on a run that draws: `model` and where, and everything else as it is."""
    rows = [("model", where(decided))]
    beside = {"model", "device", "dtype", "side"}
    return rows + [(name, _text(value)) for name, value in decided.items() if name not in beside and value is not None]


def retained(prompts: Sequence[str], reason: str) -> str:
    """How many prompts are retained, the first of them, and why."""
    if not prompts:
        return f"nothing{f' ({reason})' if reason else ''}"
    some = ", ".join(shown(prompt) for prompt in prompts[:FEW])
    many = "one prompt" if len(prompts) == 1 else f"{len(prompts)} prompts"
    return f"{many}{f', {reason}' if reason else ''}: {some}{'…' if len(prompts) > FEW else ''}"


def shown(prompt: str) -> str:
    """A prompt as it is written in a list; the blank one by its name."""
    return prompt if prompt.strip() else "(the blank prompt)"


def _concept(entry: Mapping[str, Any]) -> str:
    """A concept with its kind and what takes its place."""
    anchor = entry.get("anchor")
    led = "" if anchor is None else f", led to {shown(anchor)}"
    return f"{entry['name']} ({entry['kind']}{led})"


def _text(value: Any) -> str:
    """A value in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return repr(value) if value == "" or (isinstance(value, str) and not value.strip()) else str(value)
