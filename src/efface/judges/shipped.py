"""Opens the judges that ship with an embedded model."""

from __future__ import annotations

from functools import lru_cache

from efface.io import embedded
from efface.judges.scene import SceneJudge


@lru_cache
def embedded_judge(model: str, what: str) -> SceneJudge:
    """A judge of an embedded model, loaded once.

    Args:
        model: the embedded model.
        what: "object", "style" or "place".
    """
    return SceneJudge(what, embedded.folder(model) / "judges")
