"""efface.audit: what an erasure removed, what it damaged, what it cost: pictures before and after on the same seeds."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.audit_groups import audit_groups, compare
from efface.api.card import Card, Group
from efface.api.resolve import judge_of
from efface.closed_form.certificate import certificate
from efface.concepts.sample import SEEDS
from efface.erasures import Erasure, TextMap
from efface.errors import UsageError
from efface.io.digest import sha256_of_tensors
from efface.judges import Judge
from efface.judges.criterion import criterion_for
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.profiles.base import profile_of
from efface.redteam.findings import FORMAT

if TYPE_CHECKING:
    from efface.api.red_team import AttackResult, RedTeam
    from efface.redteam.findings import Sanity


def audit(
    pipeline: Any,
    erasure: Erasure,
    *,
    judge: Judge | None = None,
    indirect: Sequence[str] = (),
    groups: Sequence[Group] | None = None,
    time_limit: float = 300.0,
    seeds: int | None = None,
    sampling: Sampling = Sampling(),
    red_team: RedTeam | None = None,
    sanity_cache: dict[tuple[str, str], Sanity] | None = None,
    folder: str | Path | None = None,
) -> Card:
    """Draw images of the concept, its aliases, its neighbours and of unrelated things, before and after, and attack.

    Args:
        pipeline: the model the erasure was made for, with nothing attached that should not be in the images.
        erasure: what is audited.
        judge: says what images show; the model's own where it brings one. Without one, images are only compared.
        indirect: prompts that mean the concept without naming it.
        groups: prompts to use instead of those that are found.
        time_limit: seconds; as many seeds are drawn as fit, at least one.
        seeds: images of every prompt, instead of a time limit.
        sampling: how every image is drawn; the model's usual way by default.
        red_team: attacks on every concept of the erasure; none by default. The time limit is not theirs.
        sanity_cache: which attacks are sound, by attack and concept, when several erasures are audited; it gets what is
            found.
        folder: what the attacks find is kept in its `attacks`, and an audit that was stopped resumes them there.

    Raises:
        UsageError: there is nothing to draw, an attack does not fit the model, or no judge knows what is attacked.
    """
    began = time.perf_counter()
    model = Model(pipeline)
    settings = sampling.settings(pipeline)
    concepts = erasure.provenance.concepts
    attack_judge = judge  # where the model brings judges, each attacked concept has that of its own kind
    for concept in concepts if red_team else ():
        criterion_for(judge_of(judge, concept, pipeline), concept)  # raises before anything is drawn
    judge = judge or profile_of(pipeline).judge(concepts[0])
    groups = audit_groups(model, concepts, judge, indirect) if groups is None else groups
    prompts = [sample.prompt for group in groups for sample in group.samples]
    if not prompts:
        raise UsageError("there are no prompts to audit with: give groups, or a concept with templates.")
    count = seeds or affordable(model, prompts[0], len(prompts), time_limit - (time.perf_counter() - began), settings)
    numbers = range(SEEDS.audit, SEEDS.audit + count)
    work = [(group.name, replace(sample, seed=n)) for group in groups for sample in group.samples for n in numbers]
    texts = [sample.prompt for _, sample in work]
    drawn_with = [sample.seed for _, sample in work]
    before = model.draw(texts, seeds=drawn_with, **settings)
    with erasure.attached(pipeline):
        after = model.draw(texts, seeds=drawn_with, **settings)
    results = []
    for group in groups:
        members = [i for i, (name, _) in enumerate(work) if name == group.name]
        samples = [work[i][1] for i in members]
        results.append(compare(group.name, samples, [before[i] for i in members], [after[i] for i in members], judge))
    attacks: tuple[AttackResult, ...] = ()
    if red_team:
        attacks = _attack(pipeline, erasure, red_team, folder, attack_judge, sanity_cache, sampling)
    return Card(
        erasure=erasure.summary(),
        groups=tuple(results),
        seeds=tuple(numbers),
        steps=settings.get("steps", 0),
        guidance=settings.get("guidance", 0.0),
        judge=judge.name if judge else None,
        seconds=round(time.perf_counter() - began, 1),
        certificate=certificate(model, erasure) if isinstance(erasure, TextMap) else None,
        attacks=attacks,
    )


def _attack(
    pipeline: Any,
    erasure: Erasure,
    red_team: RedTeam,
    folder: str | Path | None,
    judge: Judge | None,
    sanity_cache: dict[tuple[str, str], Sanity] | None,
    sampling: Sampling,
) -> tuple[AttackResult, ...]:
    """Attacks on every concept of an erasure, in a folder of what determines them: two audits never meet in one."""
    determines = (
        FORMAT,
        sha256_of_tensors(erasure.tensors()),
        red_team.budget,
        red_team.samples,
        judge and judge.name,
        sampling,
    )
    label = f"{erasure.provenance.method}-{hashlib.sha256(repr(determines).encode()).hexdigest()[:8]}"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(folder or scratch) / "attacks" / label
        results: list[AttackResult] = []
        for concept in erasure.provenance.concepts:
            results += red_team.run(
                pipeline,
                [erasure],
                concept,
                root / concept.name.replace("/", "-"),
                judge=judge,
                sampling=sampling,
                sanity_cache=sanity_cache,
            )
        return tuple(results)


def affordable(model: Model, prompt: str, prompts: int, seconds: float, settings: Any) -> int:
    """How many seeds of every prompt fit into so many seconds, before and after, at the rate of one small batch."""
    started = time.perf_counter()
    model.draw([prompt] * 4, seeds=range(4), **settings)
    each = (time.perf_counter() - started) / 4
    return max(1, int(seconds / (2 * prompts * each)))
