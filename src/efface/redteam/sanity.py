"""Is the attack itself sound? It is run where any attack must succeed: on the unerased model, and on a weak erasure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from efface.attacks import ATTACKS
from efface.concepts.concept import Concept, default_anchor
from efface.erasers import ERASERS
from efface.erasures import Erasure
from efface.erasures.switch import ModelVariant
from efface.io.progress import Progress, silent
from efface.metrics.rates import Rate
from efface.models.neighbours import retained_prompts
from efface.redteam.findings import Sanity
from efface.redteam.run import AttackRun, open_store, run
from efface.redteam.samples import plan_samples

LEAST = 0.5
"""Share of samples that an attack must succeed with on both, or it reports itself as broken."""


def sanity(attack: AttackRun, folder: Path | None = None, *, progress: Progress = silent) -> Sanity:
    """Attack every sample of a plan on the original model itself, and one prompt's samples on the weak erasure.

    Only the attacked prompt's image counts: an attack that spoils a prompt which already draws the concept fails.
    """
    original = attack.original
    plan = replace(attack.plan, every=True)
    checks = ATTACKS.load(attack.name).sanity

    def asr_of(number: int, attack: AttackRun) -> Rate:
        store = open_store(attack, None if folder is None else folder / checks[number])
        return run(attack, store, progress=lambda done, line: progress((number + done) / len(checks), line)).asr

    unerased = asr_of(0, replace(attack, erased=original, plan=plan))
    if "weak" not in checks:
        return Sanity(unerased, None, LEAST)
    first = plan.samples[0]
    weak = ModelVariant(original.model, (*original.erasures, weak_erasure(original, attack.concept, first.prompt)))
    plan = replace(plan, samples=plan_samples([first.prompt], plan.count, attack.concept, first.seed))
    return Sanity(unerased, asr_of(1, replace(attack, erased=weak, plan=plan)), LEAST)


def weak_erasure(original: ModelVariant, concept: Concept, prompt: str) -> Erasure:
    """UCE by its published weights on the last token of the concept's name in one prompt only.

    The concept's other prompts, and what any erasure of it would retain, are retained.
    """
    anchors = dict(zip(concept.prompts(), concept.anchors(default_anchor(concept)), strict=True))
    template = prompt.replace(concept.name, "{}", 1) if prompt.count(concept.name) == 1 else "{}"
    neutral = (anchors[prompt],) if prompt in anchors else ()
    only = replace(concept, aliases=(), templates=(template,), neutral=neutral)
    keep = [p for p in anchors if p != prompt] + retained_prompts(original.model, [concept])
    uce = ERASERS.load("uce")
    return uce.erase(original.model, [only], uce.Config(rows="last", keep=tuple(keep)))
