"""What an erasure file is, read without torch, which takes longer to import than anything here takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from efface.erasures.checks import CHECKS
from efface.erasures.file import read_values
from efface.erasures.provenance import provenance_in, summarise


def summary_in(path: Path) -> dict[str, Any]:
    """What `Erasure.load(path).summary()` says, after the same checks; raises EffaceError as that does."""
    header, values = read_values(path)
    kind = str(header.get("kind"))
    if kind not in CHECKS:
        from efface.erasures.erasure import Erasure

        return Erasure.load(path).summary()
    provenance = provenance_in(path, header)
    CHECKS[kind](values, provenance.base.width)
    return summarise(
        kind,
        provenance,
        number=header["format"],
        shapes={name: part.shape for name, part in values.items()},
        sums={name: hashlib.sha256(part.data).hexdigest() for name, part in values.items()},
        size=sum(len(part.data) for part in values.values()),
    )
