"""efface.audit: what an erasure removed, what it damaged, what it cost: pictures before and after on the same seeds."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.api.audit_groups import audit_groups, compare
from efface.api.audit_words import WordsPlan, asked_words, plan_words
from efface.api.card import Card, Group
from efface.api.decisions import Decisions, about_drawing
from efface.api.pictures import PictureStore
from efface.api.resolve import judge_of
from efface.closed_form.certificate import certificate
from efface.concepts.languages import Translations, check_translations
from efface.concepts.sample import SEEDS, Sample
from efface.erasures import Erasure, GatedMap, TextMap
from efface.errors import UsageError
from efface.io.digest import sha256_of_tensors
from efface.io.progress import Progress, part, silent
from efface.judges import Judge
from efface.judges.criterion import criterion_for
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.models.timing import seconds_each
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
    words: Sequence[str] | None = None,
    translations: Translations | None = None,
    sampling: Sampling = Sampling(),
    red_team: RedTeam | None = None,
    sanity_cache: dict[tuple[str, str], Sanity] | None = None,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> Card:
    """Draw images of the concept, its aliases, its neighbours and of unrelated things, before and after, and attack.

    Args:
        pipeline: the model the erasure was made for, with nothing attached that should not be in the images.
        erasure: what is audited.
        judge: says what images show; the model's own where it brings one. Without one, images are only compared.
        indirect: prompts that mean the concept without naming it.
        groups: prompts to use instead of those that are found.
        time_limit: seconds; as many seeds are drawn as fit by a rate measured on two denoising steps, at least one.
        seeds: images of every prompt, instead of a time limit.
        words: levels of other words (`efface.concepts.levels.LEVELS`, `all`, `none`), which take their own time; by default as many
            as fit into half of the time limit, none where groups or seeds are given.
        translations: names of the concepts in other languages (`efface.concepts.languages.read_translations`).
        sampling: how every image is drawn; the model's usual way by default.
        red_team: attacks on every concept of the erasure; none by default. The time limit is not theirs.
        sanity_cache: which attacks are sound, by attack and concept, when several erasures are audited; it gets what is
            found.
        folder: pictures are kept in its `pictures` as they are drawn, what the attacks find in its `attacks`: an audit that was
            stopped goes on there, and audits of several erasures draw the unerased model's pictures once.
        progress: told the share that is done and a line about it.

    Raises:
        UsageError: there is nothing to draw, a level is unknown, the translations say nothing of the concepts, an attack does not fit
            the model, or no judge knows what is attacked.
    """
    if translations is not None:
        check_translations(translations, erasure.provenance.concepts)
    plan = plan_audit(
        pipeline, erasure, judge=judge, indirect=indirect, groups=groups, time_limit=time_limit, seeds=seeds, words=words,
        translations=translations, sampling=sampling, red_team=red_team, folder=folder,
    )  # fmt: skip
    return plan.run(sanity_cache, progress)


def plan_audit(
    pipeline: Any,
    erasure: Erasure,
    *,
    judge: Judge | None = None,
    indirect: Sequence[str] = (),
    groups: Sequence[Group] | None = None,
    time_limit: float = 300.0,
    seeds: int | None = None,
    words: Sequence[str] | None = None,
    translations: Translations | None = None,
    sampling: Sampling = Sampling(),
    red_team: RedTeam | None = None,
    folder: str | Path | None = None,
    measure: bool = False,
) -> AuditPlan:
    """Everything that `audit` decides, with two denoising steps at most; arguments and errors as of `audit`.

    Args:
        measure: take the rate of drawing also where the number of seeds needs none and something is to be drawn.
    """
    began = time.perf_counter()
    model = Model(pipeline)
    settings = sampling.settings(pipeline)
    concepts = erasure.provenance.concepts
    for concept in concepts if red_team else ():
        criterion_for(judge_of(judge, concept, pipeline), concept)  # raises before anything is drawn
    own = judge or profile_of(pipeline).judge(concepts[0])
    first = SEEDS.audit if sampling.seed is None else sampling.seed
    amount_given = groups is not None or seeds is not None
    asked = asked_words(words, translations, amount_given=amount_given)
    other = plan_words(asked, model, concepts, own, first, translations)
    groups = audit_groups(model, concepts, own, indirect) if groups is None else groups
    prompts = [sample.prompt for group in groups for sample in group.samples]
    if not prompts:
        raise UsageError("there are no prompts to audit with: give groups, or a concept with templates.")
    store = PictureStore(model, settings, None if folder is None else Path(folder) / "pictures")
    rate = None
    by = [prompts, time_limit]
    count = seeds or store.noted("seeds", by)  # as many as the run that is resumed
    if count is None:
        rate = seconds_each(model, prompts, settings)
        left = time_limit - (time.perf_counter() - began)
        if asked is None:
            other = other.within(time_limit, rate)
            left -= other.seconds(rate)
        count = affordable(len(prompts), left, rate)
    elif asked is None:
        other = other.as_noted(store.noted("words", by))
    numbers = range(first, first + count)
    work = [(group.name, replace(sample, seed=n)) for group in groups for sample in group.samples for n in numbers]
    samples = [sample for _, sample in work]
    if measure and rate is None and not all(map(store.has, store.keys(samples) + store.keys(samples, erasure))):
        rate = seconds_each(model, prompts, settings)
    return AuditPlan(
        model=model,
        erasure=erasure,
        groups=tuple(groups),
        work=tuple(work),
        seeds=tuple(numbers),
        words=other,
        sampling=sampling,
        judge=own,
        # Where the model brings judges, each attacked concept has that of its own kind.
        attack_judge=judge,
        red_team=red_team,
        store=store,
        time_limit=None if seeds else time_limit,
        folder=folder,
        seconds_each=rate,
        began=began,
    )


@dataclass(frozen=True)
class AuditPlan:
    """An audit that is decided and not yet carried out."""

    model: Model
    erasure: Erasure
    groups: tuple[Group, ...]
    work: tuple[tuple[str, Sample], ...]
    """Name of the group and sample of every picture, which is drawn before and after."""
    seeds: tuple[int, ...]
    words: WordsPlan
    """Levels of other words, or why there are none."""
    sampling: Sampling
    judge: Judge | None
    attack_judge: Judge | None
    red_team: RedTeam | None
    store: PictureStore
    time_limit: float | None
    """By which the number of seeds was decided."""
    folder: str | Path | None
    seconds_each: float | None
    """Of one picture, measured on two steps; None where nothing was measured."""
    began: float

    @property
    def decisions(self) -> Decisions:
        """On which model, where, how, by which judge and how much is drawn."""
        return about_drawing(
            self.model.pipeline,
            self.sampling,
            seeds=f"{self.seeds[0]} to {self.seeds[-1]}",
            judge=self.judge.name if self.judge else "none: pictures are only compared",
            words=self.words.said,
            attacks=list(self.red_team.names) if self.red_team else None,
        )

    def run(self, sanity_cache: dict[tuple[str, str], Sanity] | None = None, progress: Progress = silent) -> Card:
        """Draw, judge and attack; arguments as of `audit`."""
        share = 0.5 if self.red_team else 1.0  # how long attacks take is not known
        samples = [sample for _, sample in self.work]
        if self.time_limit is not None:
            prompts = [sample.prompt for group in self.groups for sample in group.samples]
            by = [prompts, self.time_limit]
            self.store.note("seeds", by, len(self.seeds))
            self.store.note("words", by, self.words.note())
        plain = share * len(samples) / (len(samples) + len(self.words.samples))
        before = self.store.draw(samples, None, part(progress, 0.0, plain / 2, "before"))
        after = self.store.draw(samples, self.erasure, part(progress, plain / 2, plain, "after"))
        names = {concept.name for concept in self.erasure.provenance.concepts}
        anything = self.judge is not None and self.judge.detects and not names & set(self.judge.classes)
        results = []
        for group in self.groups:
            members = [i for i, (name, _) in enumerate(self.work) if name == group.name]
            was, now = ([images[i] for i in members] for images in (before, after))
            results.append(compare(group.name, [samples[i] for i in members], was, now, self.judge, anything))
        words = ()
        if self.judge and self.words.levels:
            words = self.words.run(self.store, self.erasure, self.judge, part(progress, plain, share))
        attacks = self._attack(sanity_cache, part(progress, share, 1.0)) if self.red_team else ()
        return Card(
            erasure=self.erasure.summary(),
            groups=tuple(results),
            seeds=self.seeds,
            steps=self.store.settings.get("steps", 0),
            guidance=self.store.settings.get("guidance", 0.0),
            judge=self.judge.name if self.judge else None,
            seconds=round(time.perf_counter() - self.began, 1),
            certificate=certificate(self.model, self.erasure) if isinstance(self.erasure, TextMap | GatedMap) else None,
            attacks=attacks,
            words=words,
            decisions={name: value for name, value in self.decisions.items() if value is not None},
        )

    def _attack(
        self, sanity_cache: dict[tuple[str, str], Sanity] | None, progress: Progress
    ) -> tuple[AttackResult, ...]:
        """Attacks on every concept of an erasure, in a folder of what determines them: two audits never meet in one."""
        assert self.red_team is not None
        judge = self.attack_judge
        determines = (
            FORMAT,
            sha256_of_tensors(self.erasure.tensors()),
            self.red_team.budget,
            self.red_team.samples,
            judge and judge.name,
            self.sampling,
        )
        digest = hashlib.sha256(repr(determines).encode()).hexdigest()[:8]
        concepts = self.erasure.provenance.concepts
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(self.folder or scratch) / "attacks" / f"{self.erasure.provenance.method}-{digest}"
            results: list[AttackResult] = []
            for number, concept in enumerate(concepts):
                results += self.red_team.run(
                    self.model.pipeline,
                    [self.erasure],
                    concept,
                    root / concept.name.replace("/", "-"),
                    judge=judge,
                    sampling=self.sampling,
                    sanity_cache=sanity_cache,
                    progress=part(progress, number / len(concepts), (number + 1) / len(concepts)),
                )
            return tuple(results)


def affordable(prompts: int, seconds: float, each: float) -> int:
    """How many seeds of so many prompts fit into so many seconds, before and after, at so many seconds a picture."""
    return max(1, int(seconds / (2 * prompts * each)))
