"""Opens the judges that ship with an embedded model."""

from __future__ import annotations

from functools import lru_cache

from efface.io import embedded
from efface.judges.embedded import EmbeddedJudge
from efface.judges.scene import SceneJudge


@lru_cache
def embedded_judge(model: str, what: str) -> EmbeddedJudge | SceneJudge:
    """A judge of an embedded model, loaded once.

    Args:
        model: the embedded model.
        what: "object" or "style"; of scenes also "place".
    """
    folder = embedded.folder(model) / "judges"
    scene = embedded.judge_figures(folder)[what].get("network") == "scene"
    return (SceneJudge if scene else EmbeddedJudge)(what, folder)
