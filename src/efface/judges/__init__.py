"""Judges decide what a picture shows; each verdict carries what determined it."""

from efface.judges.base import Judge, Verdicts
from efface.judges.canvas import CanvasJudge, canvas_judge

__all__ = ["CanvasJudge", "Judge", "Verdicts", "canvas_judge"]
