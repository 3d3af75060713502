"""Other words in an audit: which levels are drawn, by which prompts and seeds, and how they are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from efface.api.level_result import LEAST, LevelResult, Pair
from efface.api.pictures import PictureStore
from efface.concepts.concept import Concept
from efface.concepts.languages import Translations, translations_of
from efface.concepts.levels import LEVELS, NOTHING, checked_levels, level_prompts
from efface.concepts.sample import Sample, evenly_spaced
from efface.erasures import Erasure
from efface.errors import UsageError
from efface.io.progress import Progress, part, silent
from efface.judges import Judge
from efface.judges.criterion import verdicts_on
from efface.models.model import Model
from efface.profiles.base import profile_of
from efface.report.card_attacks import ImageRow

FIRST = 32
"""Pictures of a level that the unerased model draws first: as many prompts as there are, each with as many seeds."""
MORE = 32
"""Pictures that it draws by those prompts that it understood, where it understood too few."""
TOO_LONG = "its prompts are longer than the model reads"
SHOWN = 3
"""Concepts that are named where not all are asked for."""
PICTURES = 4
"""Pairs of pictures that a card shows of each level."""
NOT_ASKED = "none: not asked for (--words all)"
SHARE = 0.5
"""Of a time limit that other words may take where nobody asked for them; those of the first levels fit in first."""


class LevelPlan(NamedTuple):
    """What the unerased model is first asked for at one level."""

    name: str
    """One of `LEVELS`."""
    samples: tuple[Sample, ...]
    why: str = ""
    """Why there are none."""


@dataclass(frozen=True)
class WordsPlan:
    """Levels of other words that are decided and not yet drawn."""

    levels: tuple[LevelPlan, ...] = ()
    why: str = ""
    """Why there are no others; "" where there is no reason to give."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the levels."""
        return tuple(plan.name for plan in self.levels)

    @property
    def samples(self) -> list[Sample]:
        """What is drawn before, whatever it shows; the erased model draws no more of these."""
        return [sample for plan in self.levels for sample in plan.samples]

    @property
    def more(self) -> int:
        """Further pictures at most, before and after: of levels that the model understands only now and then."""
        return sum(2 * MORE for plan in self.levels if plan.samples)

    @property
    def said(self) -> str:
        """The levels, and why there are no others."""
        return "; ".join(filter(None, (", ".join(self.names), self.why)))

    def seconds(self, each: float) -> float:
        """How long the first pictures of all levels take, before and after, at so many seconds a picture."""
        return 2 * len(self.samples) * each

    def within(self, limit: float, each: float) -> WordsPlan:
        """As many of the levels as fit into half of so many seconds, at so many seconds a picture; the last are left out first."""
        kept = self
        while kept.levels and kept.seconds(each) > SHARE * limit:
            first, *others = kept.levels
            # Before all others its name, by which the audit draws a group of pictures anyway.
            kept = WordsPlan(tuple(others) if first.name == "name" else kept.levels[:-1])
        left_out = ", ".join(name for name in self.names if name not in kept.names)
        if not left_out:
            return self
        reason = f"half of the time limit is {SHARE * limit:.0f} s, all take about {self.seconds(each):.0f} s"
        return replace(kept, why="; ".join(filter(None, (self.why, f"without {left_out}: {reason} (--words all)"))))

    def as_noted(self, noted: Mapping[str, Any] | None) -> WordsPlan:
        """What an earlier run decided, as `note` wrote it down; nothing where it wrote nothing."""
        if noted is None:
            return WordsPlan(why=NOT_ASKED)
        return WordsPlan(tuple(plan for plan in self.levels if plan.name in noted["names"]), noted["why"])

    def note(self) -> dict[str, Any]:
        """What was decided, for a run that goes on after this one was stopped."""
        return {"names": list(self.names), "why": self.why}

    def run(
        self, store: PictureStore, erasure: Erasure, judge: Judge, progress: Progress = silent
    ) -> tuple[LevelResult, ...]:
        """Draw, judge and count, level by level."""
        results = []
        for number, plan in enumerate(self.levels):
            share = part(progress, number / len(self.levels), (number + 1) / len(self.levels), LEVELS[plan.name])
            results.append(_audited(plan, store, erasure, judge, share))
            share(1.0, "done")
        return tuple(results)


def asked_words(
    words: Sequence[str] | None, translations: Translations | None, *, amount_given: bool
) -> Sequence[str] | None:
    """The levels that are asked for; None where nobody named any and as many are drawn as time allows.

    Args:
        words: what the user named; None where that is nothing.
        translations: a user's file asks for its level where no other is named.
        amount_given: whether groups or a number of pictures were given: then nothing is added to them unasked.

    Raises:
        UsageError: the levels that are named do not read the file.
    """
    if words is not None:
        if translations is not None and "language" not in checked_levels(words):
            raise UsageError("translations are of the level language: name it among the words, or leave them out.")
        return words
    if translations is not None:
        return ("language",)
    return () if amount_given else None


def plan_words(
    words: Sequence[str] | None,
    model: Model,
    concepts: Sequence[Concept],
    judge: Judge | None,
    first_seed: int,
    translations: Translations | None = None,
) -> WordsPlan:
    """The prompts and seeds of some levels, for all concepts that the judge knows; the reason where it knows none.

    Args:
        words: names of levels, or `all` or `none`; None means all.
        model: reads the prompts, none of which may be longer than it reads; its profile knows other words for its concepts.
        concepts: of the erasure.
        judge: says what pictures show.
        first_seed: of each prompt; its others follow it.
        translations: names in other languages from a user's file, beside the profile's and instead of them in a language of both.

    Raises:
        UsageError: a level has another name.
    """
    names = tuple(LEVELS) if words is None else checked_levels(words)
    if not names:
        return WordsPlan(why=NOT_ASKED)
    known = [concept for concept in concepts if judge is not None and concept.name in judge.classes]
    if judge is not None and judge.detects and not known:
        known = list(concepts)  # it is asked for anything that it finds
    if judge is None or not known:
        reason = "there is no judge" if judge is None else f"{judge.name} has no class of what is erased"
        return WordsPlan(why=f"none: {reason}, and no comparison of pictures says what they show")
    found = {name: LevelPlan(name, (), NOTHING[name]) for name in names}
    asked = evenly_spaced(known, FIRST)
    for concept in asked:
        other = profile_of(model.pipeline).other_words(concept)
        other = other._replace(languages=other.languages | translations_of(concept, translations or {}))
        shows = (concept.name,) if concept.name in judge.classes else ()
        for name in names:
            prompts = level_prompts(name, concept, other)
            fitting = islice((p for p in prompts if not model.truncated(p)), FIRST // len(asked))
            samples = found[name].samples + tuple(Sample(prompt, shows=shows) for prompt in fitting)
            why = "" if samples else TOO_LONG if prompts else found[name].why
            found[name] = LevelPlan(name, samples, why)
    levels = tuple(plan._replace(samples=_seeded(plan.samples, first_seed)) for plan in found.values())
    named = ", ".join(concept.name for concept in asked[:SHOWN])
    few = f"of {len(asked)} of {len(concepts)} concepts that are erased ({named}{', …' if len(asked) > SHOWN else ''})"
    return WordsPlan(levels, few if len(asked) < len(concepts) else "")


def _seeded(samples: Sequence[Sample], first: int) -> tuple[Sample, ...]:
    """`FIRST` samples of these prompts: all with the first seed, then all with the next, and so on."""
    count = len(samples)
    return tuple(replace(samples[i % count], seed=first + i // count) for i in range(FIRST)) if samples else ()


def _audited(plan: LevelPlan, store: PictureStore, erasure: Erasure, judge: Judge, progress: Progress) -> LevelResult:
    """One level: the unerased model first, by its understood prompts once more where they are few, then the erased one."""
    if not plan.samples:
        return LevelResult(plan.name, (), nothing=plan.why)
    samples = list(plan.samples)
    shown = _shown(judge, store.draw(samples, None, part(progress, 0.0, 0.4)), samples)
    understood = list(dict.fromkeys(replace(s, seed=0) for s, seen in zip(samples, shown, strict=True) if seen))
    if understood and sum(shown) < LEAST:
        count, first = len(understood), max(sample.seed for sample in samples) + 1
        again = [replace(understood[i % count], seed=first + i // count) for i in range(MORE)]
        shown += _shown(judge, store.draw(again, None, part(progress, 0.4, 0.6)), again)
        samples += again
    counted = [i for i, seen in enumerate(shown) if seen]
    if len(counted) < LEAST:
        return LevelResult(plan.name, tuple(Pair(s, seen, None) for s, seen in zip(samples, shown, strict=True)))
    chosen = [samples[i] for i in counted]
    pictures = store.draw(chosen, erasure, part(progress, 0.6, 1.0))
    still = _shown(judge, pictures, chosen)
    by_sample = dict(zip(counted, still, strict=True))
    pairs = tuple(Pair(sample, shown[i], by_sample.get(i)) for i, sample in enumerate(samples))
    strongest = sorted(range(len(chosen)), key=lambda k: not still[k])[:PICTURES]
    rows = [
        ImageRow(f"{chosen[k].prompt} (seed {chosen[k].seed})", (before, pictures[k]))
        for k, before in zip(strongest, store.draw([chosen[k] for k in strongest]), strict=True)
    ]
    return LevelResult(plan.name, pairs, tuple(rows))


def _shown(judge: Judge, pictures: Sequence[Any], samples: Sequence[Sample]) -> list[bool]:
    """Whether each picture shows what its sample names."""
    return [verdict.shown for verdict in verdicts_on(judge, pictures, [sample.concept for sample in samples])]
