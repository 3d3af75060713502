"""Is the attack itself sound? It is run where any attack must succeed: on the unerased model, and on a weak erasure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from efface.attacks import attack_module
from efface.concepts.concept import Concept, default_anchor
from efface.erasers import method_module
from efface.erasures import Erasure
from efface.erasures.switch import Target
from efface.metrics.rates import Rate
from efface.models.neighbours import retained_prompts
from efface.redteam.findings import Sanity
from efface.redteam.run import Report, Setup, open_book, run
from efface.redteam.samples import planned_tries

LEAST = 0.5
"""Share of tries that an attack must succeed with on both, or it reports itself as broken."""


def sanity(setup: Setup, folder: Path | None = None, *, report: Report = lambda done, line: None) -> Sanity:
    """Attack every try of a setup's plan on the original model itself, and one prompt's tries on the weak erasure.

    Only the attacked prompt's picture counts: an attack that spoils a prompt which already draws the concept fails.
    """
    original, plan = setup.original, replace(setup.plan, every=True)

    checks = getattr(attack_module(setup.name), "SANITY", ("unerased", "weak"))

    def against(number: int, setup: Setup) -> Rate:
        book = open_book(setup, None if folder is None else folder / checks[number])
        return run(setup, book, report=lambda done, line: report((number + done) / len(checks), line)).asr

    unerased = against(0, replace(setup, erased=original, plan=plan))
    if "weak" not in checks:
        return Sanity(unerased, None, LEAST)
    prompt, seed = plan.tries[0]
    weak = Target(original.model, (*original.erasures, weak_erasure(original, setup.concept, prompt)))
    plan = replace(plan, tries=planned_tries([prompt], plan.count, seed))
    return Sanity(unerased, against(1, replace(setup, erased=weak, plan=plan)), LEAST)


def weak_erasure(original: Target, concept: Concept, prompt: str) -> Erasure:
    """UCE by its published weights on the last token of the concept's name in one prompt only.

    The concept's other prompts, and what any erasure of it would retain, are retained.
    """
    anchors = dict(zip(concept.prompts(), concept.anchors(default_anchor(concept)), strict=True))
    template = prompt.replace(concept.name, "{}", 1) if prompt.count(concept.name) == 1 else "{}"
    neutral = (anchors[prompt],) if prompt in anchors else ()
    only = replace(concept, aliases=(), templates=(template,), neutral=neutral)
    keep = [p for p in anchors if p != prompt] + retained_prompts(original.model, [concept])
    uce = method_module("uce")
    return uce.erase(original.model, [only], uce.Config(rows="last", keep=tuple(keep)))
