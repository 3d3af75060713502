"""Share an erasure: its file, a model card and its audit, as the files of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.errors import EffaceError
from efface.io.hub import ERASURE
from efface.report.model_card import erasure_card

AUDIT = ("card.html", "card.json")


def shared_files(file: Path, summary: Mapping[str, Any], audit: Path | None, licence: str | None) -> dict[Path, bytes]:
    """Name -> content of everything that is shared.

    Args:
        file: of the erasure.
        summary: what `Erasure.summary` says of it.
        audit: the folder that `efface audit` wrote, whose figures the card shows and which is shared with it.
        licence: identifier for the card's header.

    Raises:
        EffaceError: there is no audit in `audit`.
    """
    content = file.read_bytes()
    figures = None if audit is None else audit_in(audit)
    card = erasure_card(summary, content, figures, licence)
    return {Path(ERASURE): content} | audit_files(audit) | {Path("README.md"): card.encode()}


def audit_files(audit: Path | None) -> dict[Path, bytes]:
    """Name -> content of an audit's page and figures; nothing where there is none."""
    return {} if audit is None else {Path(name): (audit / name).read_bytes() for name in AUDIT}


def audit_in(folder: Path) -> dict[str, Any]:
    """The figures of one erasure's audit."""
    try:
        figures = json.loads((folder / AUDIT[1]).read_text())
    except (OSError, ValueError):
        figures = None
    if not isinstance(figures, dict) or "groups" not in figures or not (folder / AUDIT[0]).is_file():
        raise EffaceError(
            f"{folder} holds no audit of one erasure ({' and '.join(AUDIT)}): make one with `efface audit`."
        )
    return figures
