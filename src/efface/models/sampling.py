"""Steps and guidance where the user names none."""

from __future__ import annotations

from typing import Any

from efface.errors import UsageError


def sampling(pipeline: Any, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Arguments of `Model.draw`: the user's, the canvas's standard solver, or those of the pipeline's own call."""
    from efface.families import family_of
    from efface.profiles import emoji as canvas

    usual = (canvas.STEPS, canvas.GUIDANCE) if canvas.is_canvas(pipeline) else family_of(pipeline).standard()
    steps = usual[0] if steps is None else steps
    guidance = usual[1] if guidance is None else guidance
    if steps < 1:
        raise UsageError(f"steps is {steps}; expected at least 1.")
    return {"steps": steps, "guidance": guidance}
