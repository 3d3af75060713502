"""efface.attack: try to bring an erased concept back, and say how often, at what cost, and whether the attack is sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.resolve import concept_of, judge_of
from efface.attacks import LEAKS, configured
from efface.concepts.concept import Concept
from efface.concepts.sample import SEEDS
from efface.erasures import Erasure
from efface.erasures.switch import ModelVariant
from efface.errors import UsageError
from efface.io.progress import Progress, silent
from efface.judges import Judge
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.redteam.run import AttackRun, open_store, run
from efface.redteam.samples import SamplePlan, Samples, plan_samples
from efface.redteam.sanity import sanity

if TYPE_CHECKING:
    from efface.redteam.findings import Findings, Sanity

DEFAULT = "unlearndiff"
"""The attack where none is named."""


def attack(
    pipeline: Any,
    erasure: Erasure | Sequence[Erasure],
    concept: str | Concept | None = None,
    *,
    method: str = DEFAULT,
    budget: str = "published",
    config: Any = None,
    original: Any = None,
    judge: Judge | None = None,
    prompts: Sequence[str] | None = None,
    pictures: Sequence[str | Path] = (),
    samples: Samples = Samples(),
    sampling: Sampling = Sampling(),
    known_sanity: Sanity | None = None,
    folder: str | Path | None = None,
    progress: Progress = silent,
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
        judge: says whether an image shows the concept; the model's own where it brings one.
        prompts: to be attacked, instead of the concept's own.
        pictures: files of pictures that show the concept, for a leak to start from instead of the original model's own; a
            pipeline that cannot draw from text alone (an upscaler, image-to-image, inpainting) needs them.
        samples: how many prompts and seeds are attacked, how many of them check the attack itself, how many at a time.
        sampling: how every image is drawn; the model's usual way by default.
        known_sanity: result of the sanity check of the same attack on the same model, instead of running it again.
        folder: where everything is written as it is found; resumes if it holds an unfinished run.
        progress: told the share that is done and a line about it.
        **options: fields of the attack's Config.

    Raises:
        UsageError: unknown attack, budget or option, no concept, or no judge that knows it.
        EffaceError: the original model does not draw the concept.
    """
    erasures = (erasure,) if isinstance(erasure, Erasure) else tuple(erasure)
    target = concept_of(concept, erasures, pipeline)
    if config is None:
        config = configured(method, budget, **options)
    elif options:
        raise UsageError("give either a config or its fields as options, not both.")
    if pictures and method not in LEAKS[:3]:
        raise UsageError(f"pictures were given, and {method} starts from none: expected one of {', '.join(LEAKS[:3])}.")
    chosen = prompts or target.prompts()
    first = SEEDS.attack if sampling.seed is None else sampling.seed
    path = None if folder is None else Path(folder)
    run_of = AttackRun(
        name=method,
        original=ModelVariant(Model(original or pipeline)),
        erased=ModelVariant(Model(pipeline), erasures),
        concept=target,
        config=config,
        judge=judge_of(judge, target, pipeline),
        plan=SamplePlan(
            samples=plan_samples(chosen, samples.count, target, first),
            count=samples.count,
            settings=sampling.settings(pipeline),
            batch=samples.batch,
            pictures=tuple(map(str, pictures)),
        ),
    )
    store = open_store(run_of, path)
    checked = known_sanity
    if checked is None and samples.sanity:
        few = replace(run_of.plan, samples=plan_samples(chosen, samples.sanity, target, first), count=samples.sanity)
        checked = sanity(
            replace(run_of, plan=few),
            path and path / "sanity",
            progress=lambda done, line: progress(0.3 * done, f"sanity: {line}"),
        )
    findings = run(run_of, store, sanity=checked, progress=lambda done, line: progress(0.3 + 0.7 * done, line))
    if path is not None:
        from efface.redteam.sheet import attack_sheet

        attack_sheet(findings, store, path / "sheet.png")
    return findings
