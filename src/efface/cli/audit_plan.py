"""What audits will draw and cost, said before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from efface.cli.output import result, say, say_decisions
from efface.io.progress import duration

if TYPE_CHECKING:
    from efface.api.audit import AuditPlan

Plans = Sequence[tuple[str, "AuditPlan"]]
"""Name of each erasure or policy, and what is decided of its audit; the first was measured."""


def say_plans(plans: Plans, *, of: str) -> None:
    """Say what was decided and what it will cost.

    Args:
        of: what the names are names of.
    """
    from efface.models.timing import model_bytes
    from efface.report.decisions import drawing_rows

    _, first = plans[0]
    names = ", ".join(name for name, _ in plans)
    say_decisions([(of, names), *drawing_rows(first.decisions)])
    each = first.seconds_each
    time_needed = "" if each is None else f", about {duration(seconds_needed(plans) or 0)} at {each:.3g} s each"
    more = more_pictures(plans)
    maybe = f"; up to {more} more where other words are understood now and then" if more else ""
    attacked = "; attacks take their own time" if first.red_team else ""
    weights = f"{model_bytes(first.model.pipeline) / 1e9:,.2f} GB of weights"
    say(
        f"{pictures_missing(plan for _, plan in plans)} pictures still to draw{time_needed}{maybe}{attacked}; {weights}"
    )


def give_plans(plans: Plans, *, of: str, as_json: bool) -> None:
    """Print the same as a result; arguments as of `say_plans`."""
    from efface.models.timing import model_bytes

    _, first = plans[0]
    cost = {
        "pictures": pictures_missing(plan for _, plan in plans),
        "more_pictures": more_pictures(plans),
        "seconds": seconds_needed(plans),
        "model_bytes": model_bytes(first.model.pipeline),
    }
    data = first.decisions | {of: [name for name, _ in plans]} | cost
    result(data, as_json=as_json, rows=[(name, str(value)) for name, value in cost.items()])


def seconds_needed(plans: Plans) -> float | None:
    """How long what is missing will take; None where nothing was measured."""
    missing = pictures_missing(plan for _, plan in plans)
    each = plans[0][1].seconds_each
    return 0.0 if not missing else None if each is None else round(missing * each, 1)


def more_pictures(plans: Plans) -> int:
    """Pictures at most that other words may take beside those that are counted."""
    return sum(plan.words.more for _, plan in plans)


def pictures_missing(plans: Iterable[AuditPlan]) -> int:
    """Pictures that audits of several erasures still have to draw, those of the unerased model once.

    Other words count as if the unerased model showed the concept by all of them; an erased model draws only those that it does.
    """
    keys = {
        key
        for plan in plans
        for erasure in (None, plan.erasure)
        for key in plan.store.keys([*(sample for _, sample in plan.work), *plan.words.samples], erasure)
        if not plan.store.has(key)
    }
    return len(keys)
