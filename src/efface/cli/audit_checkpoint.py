"""The audit of a whole checkpoint against its base, as a part of the command audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.output import result, say, say_decisions
from efface.cli.progress import ProgressBar
from efface.errors import UsageError
from efface.io.progress import duration

if TYPE_CHECKING:
    from efface.cli.model_options import DrawingOptions
    from efface.concepts.sample import Sample
    from efface.judges import Judge

VERSIONS = 5
"""Base, candidate, and three harmless changes of the base."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRequest:
    """What the command was asked; names of models and judges as it takes them."""

    candidate: str
    base: str
    prompts: tuple[str, ...]
    judge: str | None
    second_judge: str | None
    seeds: int
    """Pictures of every prompt."""
    steps: int | None
    guidance: float | None
    output: Path
    plan: bool
    json: bool


def audit_base(request: CheckpointRequest, model: DrawingOptions) -> None:
    """Compare a candidate with its base and print what was found.

    Raises:
        UsageError: nobody knows prompts or a judge.
    """
    from efface.api.checkpoint import audit_checkpoint
    from efface.api.decisions import about_drawing
    from efface.judges import open_judge
    from efface.models.model import Model
    from efface.models.timing import seconds_each
    from efface.report.decisions import drawing_rows

    base = model.load(request.base)
    judge = None if request.judge is None else open_judge(request.judge)
    second = None if request.second_judge is None else open_judge(request.second_judge)
    samples, judge = samples_of(base, request.prompts, judge, request.seeds)
    sampling = model.sampling(request.steps, request.guidance)
    decisions = about_drawing(base, sampling, judge=judge.name)
    say_decisions([("candidate", request.candidate), ("base", request.base), *drawing_rows(decisions)])
    pictures = VERSIONS * len(samples)
    seconds = pictures * seconds_each(Model(base), [sample.prompt for sample in samples], sampling.settings(base))
    say(f"{pictures} pictures, about {duration(seconds)}; the smoothed judge takes its own time")
    if request.plan:
        data: dict[str, Any] = decisions | {"pictures": pictures, "seconds": round(seconds, 1)}
        result(data, as_json=request.json, rows=[("pictures", str(pictures)), ("seconds", str(data["seconds"]))])
        return
    candidate = model.load(request.candidate)
    with ProgressBar("auditing") as progress:
        audit = audit_checkpoint(
            base, candidate, samples, judge=judge, second=second, sampling=sampling, folder=request.output,
            progress=progress,
        )  # fmt: skip
    rows = [
        ("verdict", audit.verdict),
        *((f"harmless: {name}", str(found)) for name, found in audit.harmless.items()),
        ("independent judge", audit.second),
        ("findings", str(request.output / "checkpoint.json")),
    ]
    result(audit.to_json(), as_json=request.json, rows=rows)
    if audit.candidate.suspect:
        say(audit.verdict)


def samples_of(base: Any, prompts: Sequence[str], judge: Judge | None, seeds: int) -> tuple[list[Sample], Judge]:
    """What is drawn, `seeds` pictures of each prompt, and by whom it is judged.

    Raises:
        UsageError: the model brings neither, and none was given.
    """
    from efface.api.checkpoint import named_samples
    from efface.concepts.concept import Concept
    from efface.concepts.sample import SEEDS
    from efface.profiles.base import profile_of

    numbers = range(SEEDS.audit, SEEDS.audit + seeds)
    profile = profile_of(base)
    if prompts:
        if judge is None:
            judge = profile.judge(Concept("object"))
        if judge is None:
            raise UsageError("no judge was given: name one whose classes the prompts name, with --judge.")
        return named_samples(prompts, judge, numbers), judge
    try:
        labelled, _ = profile.labelled(seeds)
    except UsageError as error:
        raise UsageError(
            "the model brings no prompts: name some with --prompt, each with a class of the judge."
        ) from error
    chosen = judge or profile.judge(Concept(str(labelled[0].concept)))
    if chosen is None:
        raise UsageError("no judge was given: name one that knows what the model draws, with --judge.")
    return labelled, chosen
