"""UnlearnCanvas (arXiv 2402.11846): 50 styles and photographs x 20 objects x 5 seeds, UA / IRA / CRA and FID.

One erasure a concept, 70 a method. The official prompts, or those of SAeUron (arXiv 2501.18052), which leave photographs
out and draw every object once more without a style. Seeds are the published ones, and every picture has its own generator, as in
the benchmark's script for UCE. SAeUron's code has one generator a seed and draws the pictures of all erasures with it in a row, so
that its noise depends on what was drawn before; so do the benchmark's scripts for CA, EDiff, ESD, FMN and SalUn, each erasure anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efface.bench.measures import Features
from efface.bench.observer import Observer
from efface.bench.on_jpeg import JpegFeatures, JpegJudge
from efface.bench.protocols.base import (
    Benchmark,
    Drawing,
    Entries,
    NamedErasure,
    Observations,
    concepts_erased,
    distance_of_sets,
)
from efface.bench.table import Cell
from efface.concepts.sample import Sample
from efface.errors import EffaceError, UsageError
from efface.judges import Judge
from efface.judges.criterion import recorded_as_shown
from efface.judges.labels import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_STYLES
from efface.metrics.features import Extractor
from efface.metrics.rates import Judged, Paired, paired, rate, scores

SEEDS = (188, 288, 588, 688, 888)
PHOTOGRAPHS = "Seed_Images"
"""The 51st style: pictures that were not painted."""


@dataclass(frozen=True)
class Plan:
    """Which pictures are drawn."""

    wording: Literal["official", "saeuron"] = "official"
    """"A Dogs image in Van Gogh style.", or "An image of Dogs in Van Gogh style." and "An image of Dogs."."""
    styles: tuple[str, ...] = UNLEARNCANVAS_STYLES
    objects: tuple[str, ...] = UNLEARNCANVAS_OBJECTS
    seeds: tuple[int, ...] = SEEDS

    def __post_init__(self) -> None:
        known = {"style": (self.styles, UNLEARNCANVAS_STYLES), "object": (self.objects, UNLEARNCANVAS_OBJECTS)}
        for what, (chosen, all_) in known.items():
            for name in chosen:
                if name not in all_:
                    raise EffaceError(f"{name!r} is no {what} of UnlearnCanvas; expected some of: {', '.join(all_)}.")

    @property
    def samples(self) -> tuple[Sample, ...]:
        """One a style, object and seed, the seeds of a prompt together; SAeUron's unstyled ones come last."""
        styles = self.styles if self.wording == "official" else [s for s in self.styles if s != PHOTOGRAPHS]
        styled = [self._sample(o, s, seed) for s in styles for o in self.objects for seed in self.seeds]
        plain = [self._sample(o, "", seed) for o in self.objects for seed in self.seeds]
        return tuple(styled if self.wording == "official" else styled + plain)

    def _sample(self, object_class: str, style: str, seed: int) -> Sample:
        kind = style.replace("_", " ")
        subject = object_class.replace("_", " ")
        if self.wording == "official":
            prompt = f"A {subject} image in {kind} style."
        else:
            prompt = f"An image of {subject} in {kind} style." if style else f"An image of {subject}."
        name = f"{style}_{object_class}_seed{seed}".lstrip("_")  # as the public code calls its files
        return Sample(prompt, seed, shows=(object_class, style) if style else (object_class,), name=name)


class UnlearnCanvas(Benchmark):
    """What an erasure of a style or an object takes away, what it leaves, and how far pictures move from the data set.

    Args:
        style: the judge of styles.
        object_class: the judge of objects.
        plan: which pictures are drawn.
        extract: features for FID; None leaves it out.
        data: the user's copy of the data set, `<style>/<object>/<index>.jpg`; FID takes as many of each as there are seeds.
        as_published: count as the public codes do. Official wording: photographs count for FID (5,000 pictures instead of
            4,900). SAeUron's: CRA of an erased style is of the unstyled pictures alone (100).
        repeat_unstyled: count an unstyled picture once per style in UA and IRA of an erased object, as SAeUron's code did before
            October 2025; drops count it once.
        jpeg: quality of the JPEG files through which pictures are judged (public codes: 75); None judges them as drawn.

    Raises:
        UsageError: the quality is not 1 to 100, or unstyled pictures are to be repeated where there are none.
        EffaceError: a picture of the data set is missing, or a judge does not know a style or an object.
    """

    name = "unlearncanvas"
    drawing = Drawing(steps=100, guidance=9.0)
    erasures = 70

    def __init__(
        self,
        style: Judge | None = None,
        object_class: Judge | None = None,
        plan: Plan | None = None,
        *,
        extract: Extractor | None = None,
        data: Path | None = None,
        as_published: bool = False,
        repeat_unstyled: bool = False,
        jpeg: int | None = None,
    ):
        self.plan = plan or Plan()
        self.extract = extract
        self.as_published = as_published
        self.repeat_unstyled = repeat_unstyled
        self.jpeg = jpeg
        if repeat_unstyled and self.plan.wording != "saeuron":
            raise UsageError(
                "the official prompts have no unstyled pictures to repeat: take SAeUron's (--wording saeuron)."
            )
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise UsageError(f"the quality of JPEG files is {jpeg}; expected 1 to 100 (public codes: 75).")
        self.judges = {name: judge for name, judge in (("style", style), ("object", object_class)) if judge is not None}
        self.samples = self.plan.samples
        # Real pictures lie beside the samples that they are compared with: the n-th seed with the n-th picture.
        self.paired = [i for i, sample in enumerate(self.samples) if style_of(sample)] if data and extract else []
        self.real = tuple(_picture(data, self.samples[i], self.plan.seeds) for i in self.paired) if data else ()
        for what, wanted in (("style", {style_of(s) for s in self.samples} - {""}), ("object", set(self.plan.objects))):
            missing = sorted(wanted - set(self.judges[what].classes)) if what in self.judges else []
            if missing:
                raise EffaceError(f"the judge of the {what} has no class {missing[0]!r}: give UnlearnCanvas's own.")

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The two judges and the features, which see what the public codes saw where that was asked for."""
        if self.jpeg is None:
            return {**self.judges, **self.real_observers()}
        observers: dict[str, Observer] = {name: JpegJudge(judge, self.jpeg) for name, judge in self.judges.items()}
        if self.extract is not None:
            observers["features"] = Features(JpegFeatures(self.extract, self.jpeg))
        return observers

    def real_observers(self) -> dict[str, Observer]:
        """The features of the data set's own files."""
        return {} if self.extract is None else {"features": Features(self.extract)}

    def kind(self, erasure: NamedErasure) -> str:
        """Styles or objects; raises EffaceError for anything else."""
        return "styles" if self._erased(erasure)[0] in self.plan.styles else "objects"

    def cells(self, observed: Observations) -> dict[str, Cell]:
        """UA, IRA and CRA with their paired drops, and FID without the erased concept; accuracies of the unerased."""
        if observed.erasure is None:
            return self._accuracies(observed.after) | self._fid(observed, [])
        gone = self._erased(observed.erasure)
        of_styles = gone[0] in self.plan.styles
        now, before = (self._judged(entries, of_styles) for entries in (observed.after, observed.before))
        # Unstyled pictures have no style to be right about: they speak of objects alone.
        own = [i for i, p in enumerate(now) if p.concept]
        cross = [i for i, p in enumerate(now) if p.other]
        if of_styles and self.as_published and self.plan.wording == "saeuron":
            cross = [i for i in cross if not now[i].concept]
        rates = scores([now[i] for i in own for _ in range(1 if now[i].other else self._repeats)], gone)
        retained = [i for i in own if now[i].concept not in gone]

        def drop(members: Sequence[int], right: Callable[[Judged], bool]) -> Paired:
            was, is_ = ([right(pictures[i]) for i in members] for pictures in (before, now))
            return paired(is_, was, [now[i].prompt for i in members])

        cells: dict[str, Cell] = {
            "UA": rates.ua,
            "IRA": rates.ira,
            "CRA": rate([now[i].shown_other for i in cross], [now[i].prompt for i in cross]),
            "IRA drop": drop(retained, lambda p: p.shown),
            "CRA drop": drop(cross, lambda p: p.shown_other),
        }
        return cells | self._fid(observed, gone)

    def notes(self) -> list[str]:
        """What is not the published protocol."""
        whole = self.plan.styles == UNLEARNCANVAS_STYLES and self.plan.objects == UNLEARNCANVAS_OBJECTS
        notes = []
        if not whole or self.plan.seeds != SEEDS:
            notes.append("not all styles, objects or seeds of the benchmark: published rows do not compare")
        if self.real:
            notes.append("published FIDs are of another Inception (torchvision's, of ImageNet): they do not compare")
        return notes

    @property
    def _repeats(self) -> int:
        """How often an unstyled picture counts in the rates of an erased object."""
        return len(set(self.plan.styles) - {PHOTOGRAPHS}) if self.repeat_unstyled else 1

    def _erased(self, erasure: NamedErasure) -> list[str]:
        """The styles or the objects that an erasure erases."""
        styles = [s for s in self.plan.styles if s != PHOTOGRAPHS]
        names = concepts_erased(erasure, [*styles, *self.plan.objects], "style or object")
        if len({name in styles for name in names}) > 1:
            raise EffaceError(f"{erasure.name} erases {' and '.join(names)}: expected styles or objects, not both.")
        return names

    def _judged(self, entries: Entries, of_styles: bool) -> list[Judged]:
        """Pictures with what they should show, seen from the domain of the erased concept."""
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(sample.prompt for sample in self.samples))}
        own, other = ("style", "object") if of_styles else ("object", "style")
        judged = []
        for sample, entry in zip(self.samples, entries, strict=True):
            wanted = {"object": sample.shows[0], "style": style_of(sample)}
            judged.append(
                Judged(
                    prompt=numbers[sample.prompt],
                    concept=wanted[own],
                    other=wanted[other],
                    shown=recorded_as_shown(entry[own], wanted[own]),
                    shown_other=recorded_as_shown(entry[other], wanted[other]),
                )
            )
        return judged

    def _accuracies(self, entries: Entries) -> dict[str, Cell]:
        """How often each judge is right."""
        judged = self._judged(entries, of_styles=True)
        styled = [p for p in judged if p.concept]
        return {
            "style": rate([p.shown for p in styled], [p.prompt for p in styled]),
            "object": rate([p.shown_other for p in judged], [p.prompt for p in judged]),
        }

    def _fid(self, observed: Observations, gone: Sequence[str]) -> dict[str, Cell]:
        """FID over pictures that show neither the erased concept nor, but for the official code, photographs."""
        if not observed.real:
            return {}
        left_out = set(gone) if self.as_published and self.plan.wording == "official" else {PHOTOGRAPHS, *gone}
        members = [(i, j) for j, i in enumerate(self.paired) if not set(self.samples[i].shows) & left_out]
        drawn = [observed.after[i] for i, _ in members]
        real = [observed.real[j] for _, j in members]
        return {"FID": distance_of_sets(drawn, real, "features")}


def style_of(sample: Sample) -> str:
    """The style that a picture should show; nothing for SAeUron's unstyled ones."""
    return sample.shows[1] if len(sample.shows) > 1 else ""


def _picture(data: Path, sample: Sample, seeds: Sequence[int]) -> Path:
    """The picture of the data set beside a sample."""
    path = data / style_of(sample) / sample.shows[0] / f"{seeds.index(sample.seed) + 1}.jpg"
    if not path.is_file():
        raise EffaceError(f"{path} is missing; expected UnlearnCanvas's pictures as <style>/<object>/<index>.jpg.")
    return path
