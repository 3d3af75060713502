"""Held-out synonyms of many concepts at once: what a gated map misses when nobody listed them, and when they are aliases.

Each erased object of the first draw is asked for by its held-out synonyms in three styles. A gate opens for what it was calibrated
on, so that a word that nobody named passes as it is; `ua_synonyms` counts that, `ua_aliases` the same pictures after an erasure of
the same concepts with these words among their aliases. Both are shares of what the unerased model shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quality import append, lines, weights_of

from efface.api.erase import erase
from efface.bench.protocols.canvas.many import DRAWN_STYLES, many_targets, retained_options
from efface.bench.protocols.canvas.targets import Edit, concepts_of
from efface.concepts.concept import Concept
from efface.erasures import Erasure
from efface.io.digest import sha256_of_tensors
from efface.models.model import Model
from efface.profiles.emoji.exam import draw
from efface.profiles.emoji.questions import Asked, by_words
from efface.profiles.emoji.shares import Share
from efface.profiles.emoji.words import object_class

METHOD = "gated"
FIGURES = ("ua_synonyms", "ua_aliases")


def synonyms_of(edit: Edit) -> list[Asked]:
    """Every erased object by each of its held-out synonyms, in the styles of the protocol."""
    return [asked for name in edit.names for asked in by_words(name, "synonym") if asked.style in DRAWN_STYLES]


def with_synonyms(concept: Concept) -> Concept:
    """A concept of the canvas with its held-out synonyms among its aliases."""
    return replace(concept, aliases=(*concept.aliases, *object_class(concept.name).heldout_synonyms))


def erased(model: Model, edit: Edit, figure: str) -> Erasure:
    """The gated map of a draw, as the protocol makes it or with the synonyms as aliases."""
    concepts = concepts_of(edit)
    if figure == "ua_aliases":
        concepts = tuple(map(with_synonyms, concepts))
    return erase(model.pipeline, concepts, method=METHOD, **retained_options(METHOD, edit))


def by_synonyms(model: Model, counts: Sequence[int], folder: Path) -> dict[int, dict[str, Share]]:
    """Number of concepts -> figure -> share; rows stand in the folder as they are measured, and are not measured again."""
    file, weights = folder / "synonyms.jsonl", weights_of(model)
    known = {(row["weights"], row["erasure"]): Share(*row["share"]) for row in lines(file) if "erasure" in row}
    found: dict[int, dict[str, Share]] = {}
    for target in many_targets(counts, 1):
        edit = target.edits[0]
        erasures = {figure: erased(model, edit, figure) for figure in FIGURES}
        digests = {figure: sha256_of_tensors(erasure.tensors())[:16] for figure, erasure in erasures.items()}
        missing = [figure for figure in FIGURES if (weights, digests[figure]) not in known]
        asked = synonyms_of(edit)
        before = draw(model, asked) if missing else []
        for figure in missing:
            with erasures[figure].attached(model.pipeline):
                after = draw(model, asked)
            share = Share.of(not now.things[0] for was, now in zip(before, after, strict=True) if was.things[0])
            known[weights, digests[figure]] = share
            append(file, {"figure": figure, "weights": weights, "erasure": digests[figure], "share": share})
            print(f"{METHOD}, {target.title}: {figure.replace('_', ' ')} {share}", flush=True)
        found[len(edit.names)] = {figure: known[weights, digests[figure]] for figure in FIGURES}
    return found


def pictures_of(counts: Sequence[int]) -> int:
    """Drawn in all: the unerased model's and those of both erasures."""
    return sum((1 + len(FIGURES)) * len(synonyms_of(target.edits[0])) for target in many_targets(counts, 1))
