"""What other words on the erasures of a run came to, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path

from efface.bench.table import Cell
from efface.metrics.rates import rate
from efface.profiles.emoji.shares import Figures, Share

COLUMNS = {
    "ua_synonyms": "UA synonyms", "ua_descriptions": "UA descriptions", "in_picture": "in picture", "empty": "empty places",
    "identical": "identical",
}  # fmt: skip
"""Figure of the exam -> column."""


def file_of(folder: Path, stem: str) -> Path:
    """Where it stands what was found of one erasure."""
    return folder / "words" / f"{stem}.json"


def cells_of(folder: Path, stem: str) -> dict[str, Cell]:
    """What was found of one erasure, as far as enough pictures stand behind it."""
    file = file_of(folder, stem)
    if not file.exists():
        return {}
    found = Figures(**{name: Share(*share) for name, share in json.loads(file.read_text()).items()})
    known = found.to_json()
    shares = {column: getattr(found, name) for name, column in COLUMNS.items() if known[name] is not None}
    return {column: rate([i < share.hits for i in range(share.pictures)]) for column, share in shares.items()}
