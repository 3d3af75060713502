"""UnlearnCanvas (arXiv 2402.11846): 50 styles and photographs x 20 objects x 5 seeds, UA / IRA / CRA and FID.

One erasure a concept, 70 a method. The official prompts, or those of SAeUron (arXiv 2501.18052), which leave photographs
out and draw every object once more without a style. Seeds are the published ones, but every picture has its own
generator, where the public code seeds once and draws all pictures in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from efface.bench.measures import Features
from efface.bench.observer import Observer
from efface.bench.protocols.base import Drawing, Entries, Given, Protocol, Seen, distance_of_sets, named
from efface.bench.table import Cell
from efface.concepts.sample import Shot
from efface.errors import EffaceError
from efface.judges import Judge
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
    def shots(self) -> tuple[Shot, ...]:
        """One a style, object and seed, the seeds of a prompt together; SAeUron's unstyled ones come last."""
        styles = self.styles if self.wording == "official" else [s for s in self.styles if s != PHOTOGRAPHS]
        styled = [self._shot(s, o, seed) for s in styles for o in self.objects for seed in self.seeds]
        plain = [self._shot("", o, seed) for o in self.objects for seed in self.seeds]
        return tuple(styled if self.wording == "official" else styled + plain)

    def _shot(self, style: str, thing: str, seed: int) -> Shot:
        kind, subject = style.replace("_", " "), thing.replace("_", " ")
        if self.wording == "official":
            prompt = f"A {subject} image in {kind} style."
        else:
            prompt = f"An image of {subject} in {kind} style." if style else f"An image of {subject}."
        name = f"{style}_{thing}_seed{seed}".lstrip("_")  # as the public code calls its files
        return Shot(name, prompt, seed, label=thing, other=style)


class UnlearnCanvas(Protocol):
    """What an erasure of a style or an object takes away, what it leaves, and how far pictures move from the data set.

    Args:
        style, thing: the judges of styles and objects.
        plan: which pictures are drawn.
        extract: features for FID; None leaves it out.
        data: the user's copy of the data set, `<style>/<object>/<index>.jpg`; FID takes as many of each as there are seeds.
        as_published: count as the public codes do. Official wording: photographs count for FID (5,000 pictures instead of
            4,900). SAeUron's: CRA of an erased style is of the unstyled pictures alone (100).

    Raises:
        EffaceError: a picture of the data set is missing, or a judge does not know a style or an object.
    """

    name, drawing, erasures = "unlearncanvas", Drawing(steps=100, guidance=9.0), 70

    def __init__(
        self,
        style: Judge | None = None,
        thing: Judge | None = None,
        plan: Plan | None = None,
        *,
        extract: Extractor | None = None,
        data: Path | None = None,
        as_published: bool = False,
    ):
        self.plan, self.extract, self.as_published = plan or Plan(), extract, as_published
        self.judges = {name: judge for name, judge in (("style", style), ("object", thing)) if judge is not None}
        self.shots = self.plan.shots
        # Real pictures lie beside the shots that they are compared with: the n-th seed with the n-th picture.
        self.paired = [i for i, shot in enumerate(self.shots) if shot.other] if data and extract else []
        self.real = tuple(_picture(data, self.shots[i], self.plan.seeds) for i in self.paired) if data else ()
        for what, wanted in (("style", {s.other for s in self.shots} - {""}), ("object", set(self.plan.objects))):
            missing = sorted(wanted - set(self.judges[what].classes)) if what in self.judges else []
            if missing:
                raise EffaceError(f"the judge of the {what} has no class {missing[0]!r}: give UnlearnCanvas's own.")

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The two judges and the features."""
        return {**self.judges, **self.shelf()}

    def shelf(self) -> dict[str, Observer]:
        """The features."""
        return {} if self.extract is None else {"features": Features(self.extract)}

    def kind(self, given: Given) -> str:
        """Styles or objects; raises EffaceError for anything else."""
        return "styles" if self._erased(given)[0] in self.plan.styles else "objects"

    def cells(self, seen: Seen) -> dict[str, Cell]:
        """UA, IRA and CRA with their paired drops, and FID without the erased concept; accuracies of the unerased."""
        if seen.given is None:
            return self._accuracies(seen.after) | self._fid(seen, [])
        gone = self._erased(seen.given)
        of_styles = gone[0] in self.plan.styles
        now, before = (self._judged(entries, of_styles) for entries in (seen.after, seen.before))
        # Unstyled pictures have no style to be right about: they speak of objects alone.
        own = [i for i, p in enumerate(now) if p.concept]
        cross = [i for i, p in enumerate(now) if p.other]
        if of_styles and self.as_published and self.plan.wording == "saeuron":
            cross = [i for i in cross if not now[i].concept]
        found = scores([now[i] for i in own], gone)
        kept = [i for i in own if now[i].concept not in gone]

        def drop(places: Sequence[int], right: Callable[[Judged], bool]) -> Paired:
            was, is_ = ([right(pictures[i]) for i in places] for pictures in (before, now))
            return paired(is_, was, [now[i].prompt for i in places])

        cells: dict[str, Cell] = {
            "UA": found.ua,
            "IRA": found.ira,
            "CRA": rate([_crosses(now[i]) for i in cross], [now[i].prompt for i in cross]),
            "IRA drop": drop(kept, lambda p: p.seen == p.concept),
            "CRA drop": drop(cross, _crosses),
        }
        return cells | self._fid(seen, gone)

    def notes(self) -> list[str]:
        """What is not the published protocol."""
        whole = self.plan.styles == UNLEARNCANVAS_STYLES and self.plan.objects == UNLEARNCANVAS_OBJECTS
        notes = []
        if not whole or self.plan.seeds != SEEDS:
            notes.append("not all styles, objects or seeds of the benchmark: published rows do not compare")
        if self.real:
            notes.append("published FIDs are of another Inception (torchvision's, of ImageNet): they do not compare")
        return notes

    def _erased(self, given: Given) -> list[str]:
        """The styles or the objects that an erasure erases."""
        styles = [s for s in self.plan.styles if s != PHOTOGRAPHS]
        found = named(given, [*styles, *self.plan.objects], "style or object")
        if len({name in styles for name in found}) > 1:
            raise EffaceError(f"{given.name} erases {' and '.join(found)}: expected styles or objects, not both.")
        return found

    def _judged(self, entries: Entries, of_styles: bool) -> list[Judged]:
        """Pictures with what they should show, seen from the domain of the erased concept."""
        seeds, found = len(self.plan.seeds), []
        for i, (shot, entry) in enumerate(zip(self.shots, entries, strict=True)):
            wanted = {"object": shot.label, "style": shot.other}
            own, other = ("style", "object") if of_styles else ("object", "style")
            found.append(Judged(i // seeds, wanted[own], wanted[other], entry[own]["label"], entry[other]["label"]))
        return found

    def _accuracies(self, entries: Entries) -> dict[str, Cell]:
        """How often each judge is right."""
        seen = self._judged(entries, of_styles=True)
        styled = [p for p in seen if p.concept]
        return {
            "style": rate([p.seen == p.concept for p in styled], [p.prompt for p in styled]),
            "object": rate([p.seen_other == p.other for p in seen], [p.prompt for p in seen]),
        }

    def _fid(self, seen: Seen, gone: Sequence[str]) -> dict[str, Cell]:
        """FID over pictures that show neither the erased concept nor, but for the official code, photographs."""
        if not seen.real:
            return {}
        left_out = set(gone) if self.as_published and self.plan.wording == "official" else {PHOTOGRAPHS, *gone}
        places = [
            (i, j) for j, i in enumerate(self.paired) if not {self.shots[i].label, self.shots[i].other} & left_out
        ]
        drawn, real = [seen.after[i] for i, _ in places], [seen.real[j] for _, j in places]
        return {"FID": distance_of_sets(drawn, real, "features")}


def _crosses(picture: Judged) -> bool:
    """Whether the domain that was not erased is right."""
    return picture.seen_other == picture.other


def _picture(data: Path, shot: Shot, seeds: Sequence[int]) -> Path:
    """The picture of the data set beside a shot."""
    path = data / shot.other / shot.label / f"{seeds.index(shot.seed) + 1}.jpg"
    if not path.is_file():
        raise EffaceError(f"{path} is missing; expected UnlearnCanvas's pictures as <style>/<object>/<index>.jpg.")
    return path
