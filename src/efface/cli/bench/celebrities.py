"""Celebrities: how often lists of erased people are still drawn, and how often others are; harmonic mean, pictures without a face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.bench import common, options
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.bench.protocols.celebrities import Celebrities, Portraits


@dataclass(frozen=True)
class Request(options.OnModel):
    """Draw everybody in five sentences, and name the person in each picture."""

    names: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Who is erased: the list that `efface erase --concepts` read, or a published CSV of prompts (type,prompt,evaluation_seed),
    which says who stays as well."""
    kept: Path | None = None
    """List of who stays; by default all of FILE whom an erasure leaves."""
    judge: str | None = None
    """A classifier whose classes are the names (published: GIPHY's detector, by a plugin): classifier:FOLDER, clip:…"""
    faces: str | None = None
    """A detector of faces, nudenet-faces; by default the judge's label "none" is a picture without one."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = ()
    """Other seeds than 1 to 5 where FILE has none; --seed names one."""
    skip_malformed: bool = False
    """Leave malformed rows of a CSV of prompts out, and say which."""
    limit: int | None = None
    """Draw at most so many pictures of each model, evenly spaced."""


def build(request: Request, shared: options.Shared) -> Celebrities:
    """The protocol of a request; a plan needs no judge."""
    if request.judge is None and not shared.plan:
        raise UsageError("no judge was given: name a classifier that knows the names, --judge classifier:FOLDER.")
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit is {request.limit}; expected at least 1.")
    from efface.bench.protocols.celebrities import Celebrities
    from efface.judges import open_judge

    judge = open_judge(request.judge) if request.judge else None
    faces = open_judge(request.faces) if request.faces else None
    return Celebrities(_portraits(request, shared), judge, faces, limit=request.limit)


def _portraits(request: Request, shared: options.Shared) -> Portraits:
    """Who is drawn, from a CSV of prompts or from lists of names."""
    from efface.bench.prompt_files import has_prompts, read_prompts
    from efface.bench.protocols.celebrities import SEEDS, portraits_of, published_portraits
    from efface.concepts.listing import read_list

    if request.seeds and shared.seed is not None:
        raise UsageError("--seed was given beside --seeds: name the seeds once.")
    seeds = request.seeds or (SEEDS if shared.seed is None else (shared.seed,))
    if not has_prompts(request.names):
        kept = () if request.kept is None else [entry.name for entry in read_list(request.kept)]
        return portraits_of([entry.name for entry in read_list(request.names)], kept, seeds)
    if request.kept is not None:
        raise UsageError(f"{request.names} holds prompts, and says itself who stays (type): leave --kept out.")
    return published_portraits(read_prompts(request.names, skip_malformed=request.skip_malformed), seeds)


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="celebrities", summary=__doc__)
