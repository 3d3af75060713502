"""Judges decide what a picture shows; each verdict carries what determined it.

Names are imported when first used, so that a judge's short name can be checked before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.registry import lazily

if TYPE_CHECKING:
    from efface.judges.base import Judge, Verdicts
    from efface.judges.scene import SceneJudge
    from efface.judges.shipped import embedded_judge
    from efface.judges.spec import JUDGES, open_judge

_HOMES = {
    "Judge": "efface.judges.base",
    "Verdicts": "efface.judges.base",
    "SceneJudge": "efface.judges.scene",
    "embedded_judge": "efface.judges.shipped",
    "JUDGES": "efface.judges.spec",
    "open_judge": "efface.judges.spec",
}

__all__ = ["JUDGES", "Judge", "SceneJudge", "Verdicts", "embedded_judge", "open_judge"]

__getattr__ = lazily(__name__, _HOMES, globals())
