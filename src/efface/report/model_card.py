"""The model card of what is shared: what it removes, what an audit found, how it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from efface.metrics.rates import Rate
from efface.report import card_words
from efface.report.decisions import base_of, erasing_rows
from efface.report.markdown import table

TAGS = ["concept-erasure", "unlearning", "diffusers", "text-to-image"]


def erasure_card(data: Mapping[str, Any], content: bytes, audit: Mapping[str, Any] | None, licence: str | None) -> str:
    """The card of an erasure, from its summary and its file's bytes, with the figures of its audit where there is one."""
    names = ", ".join(concept["name"] for concept in data["concepts"])
    settings = {name: value for name, value in data["config"].items() if name != "keep"}
    decided = [(name, value) for name, value in erasing_rows(data) if name != "options"]
    lines = [
        f"# {names}, erased by {data['method']}",
        f"Removes *{names}* from a text-to-image model while it is attached, and nothing when it is taken off. "
        f"Made for one model ({_base(data)}); any other is refused.",
        "```python\nimport efface\n\npipe = efface.load(MODEL)\nerasure = efface.Erasure.from_pretrained(THIS_REPOSITORY)\n"
        "with erasure.attached(pipe):\n    picture = pipe(PROMPT).images[0]\n```",
        "## What was found",
        _audit_table(audit) if audit else "Not audited: `efface audit MODEL --erasure FILE` measures it.",
        "## How it was made",
        table(("decided", ""), decided),
        table(("option", "value"), [(name, _short(value)) for name, value in settings.items()]),
        f"{len(content):,} bytes, sha256 `{hashlib.sha256(content).hexdigest()}`. "
        + ", ".join(f"{name} {number}" for name, number in data["versions"].items())
        + ".",
    ]
    return _head([*TAGS, data["method"]], licence) + "\n\n".join(lines) + "\n"


def autoencoder_card(rows: Sequence[tuple[str, ...]], licence: str | None) -> str:
    """The card of autoencoders, one row for each site: its name, width, latents, k and hash."""
    lines = [
        "# Sparse autoencoders of a diffusion model",
        "Trained on what these modules give while pictures are drawn; `efface erase saeuron MODEL CONCEPT --coder "
        "THIS_REPOSITORY` chooses latents of a concept and edits them (arXiv 2501.18052).",
        table(("site", "width", "latents", "k", "hash"), rows),
    ]
    return _head([*TAGS, "sparse-autoencoder"], licence) + "\n\n".join(lines) + "\n"


def _head(tags: list[str], licence: str | None) -> str:
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(library_name='efface', tags=tags, license=licence).to_yaml()}\n---\n\n"


def _audit_table(audit: Mapping[str, Any]) -> str:
    """The figures of every group of prompts, as `efface audit` wrote them."""
    rows = []
    for name, group in audit["groups"].items():
        rates = [_rate(group[key]) for key in ("shown_before", "shown_after", "intact")]
        distance = "" if group["distance"] is None else f"{group['distance']:.3f}"
        rows.append((name, str(group["pictures"]), *rates, distance))
    heads = ("prompts", "pictures", "concept shown before", "after", "intact", "distance")
    judged = f"Judged by {audit['judge']}" if audit["judge"] else "Pictures were compared, not judged"
    words = f"\n\n{card_words.markdown(audit['words'])}" if audit.get("words") else ""
    return (
        f"{table(heads, rows)}\n\n{judged}; {audit['steps']} steps, guidance {audit['guidance']}, 95% intervals.{words}"
    )


def _base(data: Mapping[str, Any]) -> str:
    """The base model by its name, where the file knows one, and what tells it from others."""
    name = data["notes"].get("decisions", {}).get("model")
    return ", ".join(filter(None, (name, base_of(data["base"]))))


def _rate(rate: Mapping[str, Any] | None) -> str:
    return "" if rate is None else str(Rate(**rate))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
