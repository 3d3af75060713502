"""What is about to be done, decided before it starts: on which model, where, how, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from efface.concepts.concept import Concept, default_anchor
from efface.families.base import Side, execution_device
from efface.models.metadata import model_name
from efface.models.model import Model
from efface.models.sampling import Sampling, usual_side

Decisions = dict[str, Any]
"""Name -> value, as plain JSON."""

WHY = {
    "object": "what stands beside the concept, nearest in the model's text space first",
    "style": "other artists or styles, nearest in the model's text space first",
    "person": "other persons and anybody, nearest in the model's text space first",
    "explicit": "neutral ones, since what is near would mean it too",
    "abstract": "neutral ones, since what is near would mean it too",
}
"""Kind of a concept -> why its retained prompts are retained, where nobody named any."""


def about_model(pipeline: Any, side: Side = None) -> Decisions:
    """Which model, on which device, in which precision, and how large its pictures are."""
    components = Model(pipeline).components().values()
    parameters = [parameter for part in components for parameter in part.parameters()]
    device = execution_device(pipeline)
    if torch.device(device).type == "meta":  # where only a part of the model was loaded
        device = next((p.device for p in parameters if not p.is_meta), device)
    return {
        "model": model_name(pipeline),
        "device": str(device),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "side": side or usual_side(pipeline),
    }


def about_drawing(pipeline: Any, sampling: Sampling = Sampling(), **more: Any) -> Decisions:
    """The model, the steps and the guidance of pictures, and what else a command decides."""
    settings = dict(sampling.settings(pipeline))
    drawn = {name: settings[name] for name in ("steps", "guidance", "negative") if settings.get(name) is not None}
    return about_model(pipeline, sampling.side) | drawn | more


def about_erasing(
    pipeline: Any, concepts: Sequence[Concept], reason: str, judge: str | None, remarks: Sequence[str] = ()
) -> Decisions:
    """What an erasure's notes hold under `decisions`, beside its configuration and its retained prompts.

    Args:
        pipeline: the model.
        concepts: what is erased.
        reason: why the retained prompts are retained.
        judge: name of the judge that looks at pictures meanwhile; None without one.
        remarks: what was inferred from the names.
    """
    named = [{"name": c.name, "kind": c.kind, "anchor": c.anchors(default_anchor(c))[0]} for c in concepts]
    decided = about_model(pipeline) | {"concepts": named, "retained": reason, "judge": judge, "remarks": list(remarks)}
    return {name: value for name, value in decided.items() if value not in (None, [])}


def why_retained(concepts: Sequence[Concept], *, named: bool, keep: Sequence[str]) -> str:
    """Why an erasure retains what it retains.

    Args:
        concepts: what is erased.
        named: whether the user named the prompts, or none.
        keep: the prompts.
    """
    if named:
        return "as named" if keep else "as asked"
    if not keep:
        return "nothing is known that stands beside the concept"
    reasons = ("the model's own concepts beside it" if c.keep else WHY[c.kind] for c in concepts)
    return "; ".join(dict.fromkeys(reasons))
