"""Steps and guidance where the user names none."""

from __future__ import annotations

from typing import Any

from efface.errors import UsageError


def sampling(pipeline: Any, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Arguments of `Model.draw`: the user's, the canvas's standard solver, or the usual 50 steps at 7.5."""
    from efface import canvas

    own = canvas.is_canvas(pipeline)
    steps = (canvas.STEPS if own else 50) if steps is None else steps
    guidance = (canvas.GUIDANCE if own else 7.5) if guidance is None else guidance
    if steps < 1:
        raise UsageError(f"steps is {steps}; expected at least 1.")
    return {"steps": steps, "guidance": guidance}
