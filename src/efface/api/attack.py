"""efface.attack: try to bring an erased concept back, and say how often, at what cost, and whether the attack is sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.resolve import concept_of, judge_of
from efface.attacks import configured
from efface.concepts.concept import Concept
from efface.erasures import Erasure
from efface.erasures.switch import Target
from efface.errors import UsageError
from efface.judges import Judge
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.redteam.run import Report, Setup, open_book, run
from efface.redteam.samples import Plan, planned_tries
from efface.redteam.sanity import sanity

if TYPE_CHECKING:
    from efface.redteam.findings import Findings, Sanity


def attack(
    pipeline: Any,
    erasure: Erasure | Sequence[Erasure],
    concept: str | Concept | None = None,
    *,
    method: str = "unlearndiff",
    budget: str = "published",
    config: Any = None,
    original: Any = None,
    judge: Judge | None = None,
    prompts: Sequence[str] | None = None,
    tries: int = 8,
    sanity_tries: int = 2,
    known_sanity: Sanity | None = None,
    draw_steps: int | None = None,
    guidance: float | None = None,
    together: int = 4,
    folder: str | Path | None = None,
    report: Report = lambda done, line: None,
    **options: Any,
) -> Findings:
    """Attack an erased model.

    Args:
        pipeline: the model; the erasures are attached while it is attacked, and nothing else should be.
        erasure: what is attacked, one or several in the order in which they are attached; an empty sequence attacks the
            pipeline as it is, for a checkpoint that was erased by training.
        concept: what is to come back; the first erasure's concept by default.
        method: name of the attack.
        budget: "published", "canvas" or "quick"; how far the search goes.
        config: the attack's Config, instead of a budget and options.
        original: the unerased pipeline; `pipeline` without the erasures by default.
        judge: says whether a picture shows the concept; the canvas's own on the emoji canvas.
        prompts: to be attacked, instead of the concept's own.
        tries: prompts and seeds that are attacked.
        sanity_tries: how many are used to see whether the attack itself is sound; 0 leaves that out.
        known_sanity: of the same attack on the same model, instead of finding it again.
        draw_steps: denoising steps of every picture; the model's usual number by default.
        guidance: guidance scale.
        together: tries attacked side by side; it changes speed and memory, not what is found.
        folder: where everything is written as it is found; a run that was stopped goes on there.
        report: called with the share that is done and a line about it.
        **options: fields of the attack's Config.

    Raises:
        UsageError: unknown attack, budget or option, no concept, or no judge that knows it.
        EffaceError: the original model does not draw the concept.
    """
    erasures = (erasure,) if isinstance(erasure, Erasure) else tuple(erasure)
    found = concept_of(concept, erasures, pipeline)
    judge = judge_of(judge, found, pipeline)
    if config is None:
        config = configured(method, budget, **options)
    elif options:
        raise UsageError("give either a config or its fields as options, not both.")
    if tries < 1:
        raise UsageError(f"tries is {tries}; expected at least 1.")
    settings: Any = sampling(pipeline, draw_steps, guidance)
    said, place = prompts or found.prompts(), None if folder is None else Path(folder)
    whole, erased = Target(Model(original or pipeline)), Target(Model(pipeline), erasures)
    plan = Plan(planned_tries(said, tries), tries, settings, together)
    setup = Setup(method, whole, erased, found, config, judge, plan)
    book, checked = open_book(setup, place), known_sanity
    if checked is None and sanity_tries:
        small = replace(plan, tries=planned_tries(said, sanity_tries), count=sanity_tries)
        checked = sanity(
            replace(setup, plan=small), place and place / "sanity",
            report=lambda done, line: report(0.3 * done, f"sanity: {line}"),
        )  # fmt: skip
    result = run(setup, book, sanity=checked, report=lambda done, line: report(0.3 + 0.7 * done, line))
    if place is not None:
        from efface.redteam.sheet import attack_sheet

        attack_sheet(result, book, place / "sheet.png")
    return result
