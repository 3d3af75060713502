"""Make an erasure; the method is a subcommand with its own options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.dispatch import first_word
from efface.concepts.concept import Concept, Kind
from efface.erasers import ERASERS
from efface.erasers.base import ClosedForm
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.api.erase import ErasePlan
    from efface.cli.erase_options import Request
    from efface.cli.model_options import DrawingOptions
    from efface.concepts.listing import Entry


def main(args: list[str]) -> None:
    """Run the command."""
    usage = "efface erase METHOD MODEL CONCEPT... [options]"
    method = first_word(ERASERS, args, title=__doc__ or "", usage=usage)
    ERASERS.load(method)  # an unknown one is refused before anything heavy is imported
    from efface.cli.erase_options import parse  # tyro: slow to import

    _erase(method, *parse(method, args[1:]))


def _erase(method: str, request: Request, model: DrawingOptions, options: dict[str, Any]) -> None:
    from efface.api.erase import plan_erasure
    from efface.api.erase_vlm import require_fit
    from efface.cli.output import result, say_decisions
    from efface.cli.progress import ProgressBar
    from efface.families import family_of
    from efface.report.decisions import erasing_rows

    entries = _entries(request)
    output = _destination(request, entries[0].name)
    pipeline = model.load(request.model, text_only=_reads_only_text(method, request))
    require_fit(method, pipeline)
    if request.preview:
        family_of(pipeline).require_drawable()
    concepts, remarks = _concepts(request, entries, pipeline)
    plan = plan_erasure(
        pipeline,
        concepts,
        method=method,
        judge=request.judge,
        as_published=request.as_published,
        remarks=remarks,
        **options,
    )
    rows = [("method", method), *erasing_rows(plan.to_json())]
    say_decisions(rows)
    if request.plan:
        _print_plan(plan, request, output)
        return
    with ProgressBar(f"erasing with {method}") as progress:
        erasure = plan.run(progress)
        data: dict[str, Any] = {
            "output": str(output),
            "method": method,
            "concepts": [concept.name for concept in concepts],
            "seconds": erasure.provenance.notes["seconds"],
            "bytes": erasure.save(output),
        }
        if request.preview:
            from efface.api.preview import preview

            preview(pipeline, erasure, request.preview, sampling=model.sampling(request.steps), progress=progress)
            data["preview"] = str(request.preview)
    data |= _of_list(erasure.provenance.notes)
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in data.items()]
    result(data, as_json=request.json, rows=rows)


def _reads_only_text(method: str, request: Request) -> bool:
    """Whether nothing will be drawn."""
    return isinstance(ERASERS.load(method), ClosedForm) and request.judge is None and request.preview is None


def _print_plan(plan: ErasePlan, request: Request, output: Path) -> None:
    """What would be done, and what it would cost."""
    from efface.cli.output import result
    from efface.io.progress import duration

    cost, training = plan.cost(), plan.training()
    drawn = f"at most {cost['pictures']}, about {duration(cost['seconds'] or 0)} of drawing"
    data = plan.to_json() | {"output": str(output), "model_bytes": plan.bytes(), "training": training} | cost
    rows = [
        ("would write", str(output)),
        ("pictures", {None: "as many as the method needs", 0: "none are drawn"}.get(cost["pictures"], drawn)),
        ("weights", f"{data['model_bytes'] / 1e9:,.2f} GB"),
    ]
    if training:
        about = f"about {duration(training['seconds'])} and {training['bytes'] / 1e9:,.2f} GB"
        rows.append(("training", f"{training['steps']} steps, {about}"))
    result(data, as_json=request.json, rows=rows)


def _of_list(notes: dict[str, Any]) -> dict[str, Any]:
    """What a method for lists found, which is also said: the weight, each concept's gate, what may suffer."""
    from efface.cli.output import say

    for remark in notes.get("remarks", ()):
        say(remark)
    found = {name: notes[name] for name in ("gates", "may_suffer") if notes.get(name)}
    for name, gate in sorted(found.get("gates", {}).items(), key=lambda item: item[1]["margin"]):
        refused = f", without a gate: {', '.join(gate['refused'])}" if gate["refused"] else ""
        say(f"gate of {name}: margin {gate['margin']:.2f}{refused}")
    for prompt, share in found.get("may_suffer", {}).items():
        say(f"may suffer: {prompt!r}, which moves by {share:.2f} of its distance to the nearest other prompt")
    return {"may_suffer": list(found["may_suffer"])} if "may_suffer" in found else {}


def _entries(request: Request) -> list[Entry]:
    """The concepts that were named, and those of a list, each once."""
    from efface.concepts.listing import Entry, read_list

    entries = [Entry(name) for name in request.concepts]
    entries += [] if request.listed is None else read_list(request.listed)
    if not entries:
        raise UsageError(
            "no concept was given: name what is to be erased, for example 'church', or give --concepts FILE."
        )
    return list({entry.name: entry for entry in reversed(entries)}.values())[::-1]


def _destination(request: Request, first: str) -> Path:
    """Where the erasure goes; refuses missing folders before anything is computed."""
    output = request.output or Path(f"{first.replace(' ', '-')}.safetensors")
    for path in filter(None, (output, request.preview)):
        if not path.absolute().parent.is_dir():
            raise EffaceError(f"the folder of {path} does not exist: nothing was computed; make it or choose another.")
    return output


def _concepts(request: Request, entries: Sequence[Entry], pipeline: Any) -> tuple[tuple[Concept, ...], list[str]]:
    """The concepts in the words of the model, with the kind, anchor and aliases that the user gave, and how names were read."""
    from efface.api.resolve import read, resolve
    from efface.models.vlm import VisionLanguageModel
    from efface.profiles.base import profile_of

    if isinstance(pipeline, VisionLanguageModel):  # nothing is inferred of names that are those of folders
        kinds: list[Kind] = [entry.kind or request.kind or "object" for entry in entries]
        pairs = zip(entries, kinds, strict=True)
        return tuple(Concept(entry.name, kind=kind, aliases=tuple(entry.aliases)) for entry, kind in pairs), []
    profile = profile_of(pipeline)
    resolved = iter(resolve([entry.name for entry in entries], pipeline))
    unsaid = [entry.name for entry in entries if entry.kind is None and request.kind is None]
    remarks = read(unsaid, pipeline) if unsaid else []
    concepts: list[Concept] = []
    for entry in entries:
        kind = entry.kind or request.kind
        anchor = request.anchor if entry.anchor is None else entry.anchor
        changes: dict[str, Any] = {} if kind is None else {"kind": kind}
        changes |= {} if anchor is None else {"anchor": anchor, "neutral": ()}
        for _ in profile.concepts(entry.name):
            concept = next(resolved)
            aliases = tuple(dict.fromkeys((*concept.aliases, *entry.aliases)))
            concepts.append(dataclasses.replace(concept, aliases=aliases, **changes))
    return tuple(concepts), remarks
