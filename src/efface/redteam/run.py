"""Run an attack: choose its samples, search batch after batch, and keep the findings on disk as they grow."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from efface.attacks import ATTACKS
from efface.attacks.base import Problem
from efface.concepts.concept import Concept
from efface.erasures.switch import ModelVariant, keep_attached
from efface.io.digest import sha256_of_tensors
from efface.io.images import read_picture
from efface.io.progress import Progress, silent
from efface.judges.base import Judge
from efface.judges.criterion import criterion_for
from efface.redteam.findings import Findings, Sanity
from efface.redteam.result import SampleResult
from efface.redteam.samples import SamplePlan, SampleSet, choose_samples
from efface.redteam.search import SearchRun
from efface.redteam.store import RunStore


@dataclass(frozen=True)
class AttackRun:
    """Everything that determines what an attack finds."""

    name: str
    """Name of the attack."""
    original: ModelVariant
    erased: ModelVariant
    concept: Concept
    config: Any
    """The attack's Config."""
    judge: Judge
    plan: SamplePlan

    def identity(self) -> dict[str, Any]:
        """All of it, as JSON can say it."""
        from efface.models.fingerprint import fingerprint

        plan = asdict(self.plan)
        pictures = [read_picture(Path(path)) for path in plan.pop("pictures")]
        identity = {
            "attack": self.name,
            "config": asdict(self.config),
            "concept": asdict(self.concept),
            "judge": self.judge.name,
            "plan": plan,
            "models": [fingerprint(variant.model).to_json() for variant in (self.original, self.erased)],
            "erasures": self.erasures(),
        }
        if pictures:  # folders of earlier versions do not speak of them
            identity["pictures"] = [sha256(picture.tobytes()).hexdigest() for picture in pictures]
        return json.loads(json.dumps(identity, default=str))

    def erasures(self) -> list[dict[str, Any]]:
        """Which erasures are attacked."""
        return [
            {
                "method": erasure.provenance.method,
                "concepts": [concept.name for concept in erasure.provenance.concepts],
                "sha256": sha256_of_tensors(erasure.tensors()),
            }
            for erasure in self.erased.erasures
        ]


def open_store(attack: AttackRun, folder: Path | None) -> RunStore:
    """The store of exactly this attack: in a folder, where it is resumed, or in memory."""
    return RunStore(folder, attack.identity())


def run(attack: AttackRun, store: RunStore, *, sanity: Sanity | None = None, progress: Progress = silent) -> Findings:
    """Attack every sample of a plan, from where the store stops; the findings are on disk after every judged proposal.

    Raises:
        UsageError: the judge does not know the concept, or an option does not fit the model.
        EffaceError: the original model shows the concept in none of the plan's images.
    """
    with keep_attached():
        plan = attack.plan
        criterion = criterion_for(attack.judge, attack.concept)
        chosen = choose_samples(attack.original, attack.erased, attack.concept, criterion, plan, store)
        results = {
            n: SampleResult(number=n, sample=sample, before=before, after=before)
            for n, (sample, before) in enumerate(zip(chosen.samples, chosen.before, strict=True))
        }
        every = plan.every or ATTACKS.load(attack.name).every
        attacked = [n for n in results if every or not chosen.before[n].shown]
        finished = set(results) - set(attacked)
        per_concept = ATTACKS.load(attack.name).per == "concept"
        size = max(1, len(attacked) if per_concept else plan.batch)
        groups = [attacked[i : i + size] for i in range(0, len(attacked), size)]
        for number, members in enumerate(groups):
            search = SearchRun(
                name=attack.name,
                config=attack.config,
                problem=_problem(attack, chosen, members),
                results=[results[n] for n in members],
                criterion=criterion,
                store=store,
                record=f"search-{number:03}",
            )
            with closing(search.steps()) as steps:
                for done in steps:
                    results.update(zip(members, search.results, strict=True))
                    judged = [n for n, result in results.items() if n in finished or result.trace]
                    searching = len(set(judged) - finished)
                    _write(attack, store, sanity, chosen, [results[n] for n in judged], searching)
                    hits = sum(result.gained for result in results.values())
                    line = f"{len(finished)} of {len(results)} samples done, {hits} brought back"
                    progress((number + done) / len(groups), line)
            results.update(zip(members, search.results, strict=True))
            finished |= set(members)
        progress(1.0, f"{len(finished)} of {len(results)} samples done")
        return _write(attack, store, sanity, chosen, list(results.values()))


def _problem(attack: AttackRun, chosen: SampleSet, members: list[int]) -> Problem:
    """Some of the samples, to be attacked in one batch."""
    return Problem(
        original=attack.original,
        erased=attack.erased,
        concept=attack.concept,
        samples=tuple(chosen.samples[n] for n in members),
        latents=chosen.latents[members],
        settings=attack.plan.settings,
        pictures=None if chosen.pixels is None else chosen.pixels[members],
        seed=attack.config.seed,
    )


def _write(
    attack: AttackRun,
    store: RunStore,
    sanity: Sanity | None,
    chosen: SampleSet,
    results: list[SampleResult],
    searching: int = 0,
) -> Findings:
    """The findings as they stand, on disk too."""
    identity = store.identity or attack.identity()
    findings = Findings(
        attack=attack.name,
        config=identity["config"],
        concept=attack.concept.name,
        erasures=tuple(identity["erasures"]),
        judge=attack.judge.name,
        settings=dict(attack.plan.settings),
        samples=tuple(sorted(results, key=lambda r: (not r.after.shown, r.before.shown, -r.after.score))),
        dropped=chosen.dropped,
        planned=len(chosen.samples),
        searching=searching,
        attempted="every" if attack.plan.every or ATTACKS.load(attack.name).every else "concept",
        sanity=sanity,
    )
    if store.folder is not None:
        findings.save(store.folder / "findings.json")
    return findings
