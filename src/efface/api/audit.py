"""efface.audit: what an erasure removed, what it damaged, what it cost: pictures before and after on the same seeds."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.audit_groups import findings_of, found_groups
from efface.api.card import Card, Group
from efface.api.resolve import judge_of
from efface.closed_form.certificate import certificate
from efface.erasures import Erasure, TextMap
from efface.errors import UsageError
from efface.judges import Judge
from efface.judges.criterion import eye_of
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.profiles.base import profile_of
from efface.redteam.store import digest

if TYPE_CHECKING:
    from efface.api.red_team import Attacked, RedTeam
    from efface.redteam.findings import Sanity


def audit(
    pipeline: Any,
    erasure: Erasure,
    *,
    judge: Judge | None = None,
    indirect: Sequence[str] = (),
    groups: Sequence[Group] | None = None,
    budget: float = 300.0,
    seeds: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    team: RedTeam | None = None,
    known: dict[tuple[str, str], Sanity] | None = None,
    folder: str | Path | None = None,
) -> Card:
    """Draw pictures of the concept, its aliases, its neighbours and of unrelated things, before and after, and attack.

    Args:
        pipeline: the model the erasure was made for, with nothing attached that should not be in the pictures.
        erasure: what is audited.
        judge: says what pictures show; the model's own where it brings one. Without one, pictures are only compared.
        indirect: prompts that mean the concept without naming it.
        groups: prompts to use instead of those that are found.
        budget: seconds; as many seeds are drawn as fit, at least one.
        seeds: pictures of every prompt, instead of a budget.
        steps: denoising steps; the model's usual number by default.
        guidance: guidance scale.
        team: attacks on every concept of the erasure; none by default. The budget in seconds is not theirs.
        known: which attacks are sound, by attack and concept, when several erasures are audited; it gets what is found.
        folder: what the attacks find is kept in its `attacks`, and an audit that was stopped goes on with them there.

    Raises:
        UsageError: there is nothing to draw, an attack does not fit the model, or no judge knows what is attacked.
    """
    began = time.perf_counter()
    model, settings = Model(pipeline), sampling(pipeline, steps, guidance)
    concepts = erasure.provenance.concepts
    team_judge = judge  # where the model brings judges, each attacked concept has that of its own kind
    for concept in concepts if team else ():
        eye_of(judge_of(judge, concept, pipeline), concept)  # raises before anything is drawn
    judge = judge or profile_of(pipeline).judge(concepts[0])
    found = list(found_groups(model, concepts, judge, indirect) if groups is None else groups)
    prompts = [prompt for group in found for prompt in group.prompts]
    if not prompts:
        raise UsageError("there are no prompts to audit with: give groups, or a concept with templates.")
    count = seeds or affordable(model, prompts[0].text, len(prompts), budget - (time.perf_counter() - began), settings)
    drawn = range(30_000, 30_000 + count)
    work = [(prompt.text, seed) for prompt in prompts for seed in drawn]
    texts, numbers = [text for text, _ in work], [seed for _, seed in work]
    before = model.draw(texts, seeds=numbers, **settings)
    with erasure.attached(pipeline):
        after = model.draw(texts, seeds=numbers, **settings)
    findings, start = [], 0
    for group in found:
        end = start + len(group.prompts) * count
        findings.append(findings_of(group, count, before[start:end], after[start:end], judge))
        start = end
    drawing = {"draw_steps": steps, "guidance": guidance}
    attacks = _attacked(pipeline, erasure, team, folder, team_judge, known, drawing) if team else ()
    return Card(
        erasure.summary(), tuple(findings), tuple(drawn), settings["steps"], settings["guidance"],
        judge.name if judge else None, round(time.perf_counter() - began, 1),
        certificate(model, erasure) if isinstance(erasure, TextMap) else None, attacks,
    )  # fmt: skip


def _attacked(
    pipeline: Any,
    erasure: Erasure,
    team: RedTeam,
    folder: str | Path | None,
    judge: Judge | None,
    known: dict[tuple[str, str], Sanity] | None,
    drawing: dict[str, Any],
) -> tuple[Attacked, ...]:
    """Attacks on every concept of an erasure, in a folder of what determines them: two audits never meet in one."""
    asked = (digest(erasure.tensors()), team.budget, team.tries, judge and judge.name, *drawing.values())
    label = f"{erasure.provenance.method}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch) / "attacks" / label
        homes = [(concept, place / concept.name.replace("/", "-")) for concept in erasure.provenance.concepts]
        return tuple(
            attacked
            for concept, home in homes
            for attacked in team.run(pipeline, [erasure], concept, home, judge=judge, known=known, **drawing)
        )


def affordable(model: Model, prompt: str, prompts: int, seconds: float, settings: dict[str, Any]) -> int:
    """How many seeds of every prompt fit into so many seconds, before and after, at the rate of one small batch."""
    started = time.perf_counter()
    model.draw([prompt] * 4, seeds=range(4), **settings)
    each = (time.perf_counter() - started) / 4
    return max(1, int(seconds / (2 * prompts * each)))
