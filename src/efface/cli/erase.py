"""Make an erasure; the method is a subcommand with its own options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.dispatch import first_word
from efface.concepts.concept import Concept
from efface.erasers import ERASERS
from efface.erasers.base import ClosedForm
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from efface.cli.erase_options import Request


def main(args: list[str]) -> None:
    """Run the command."""
    usage = "efface erase METHOD MODEL CONCEPT... [options]"
    method = first_word(ERASERS, args, title=__doc__ or "", usage=usage)
    ERASERS.load(method)  # an unknown one is refused before anything heavy is imported
    from efface.cli.erase_options import parse  # tyro: slow to import

    _erase(method, *parse(method, args[1:]))


def _erase(method: str, request: Request, options: dict[str, Any]) -> None:
    from efface.api.erase import erase
    from efface.cli.output import result, say
    from efface.models.load import load

    output = _destination(request)
    pipeline = load(request.model, text_only=_reads_only_text(method, request))
    concepts = _concepts(request, pipeline)
    judge = _judge(request, concepts, pipeline)
    erasure = erase(pipeline, concepts, method=method, judge=judge, as_published=request.as_published, **options)
    data: dict[str, Any] = {
        "output": str(output),
        "method": method,
        "concepts": [concept.name for concept in concepts],
        "seconds": erasure.provenance.notes["seconds"],
        "bytes": erasure.save(output),
    }
    keep = erasure.provenance.keep
    if "keep" not in options and keep:
        say(f"retained {len(keep)} prompts: {', '.join(keep[:6])}{'…' if len(keep) > 6 else ''}")
    if request.preview:
        from efface.api.preview import preview
        from efface.models.sampling import Sampling

        preview(pipeline, erasure, request.preview, sampling=Sampling(steps=request.steps))
        data["preview"] = str(request.preview)
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in data.items()]
    result(data, as_json=request.json, rows=rows)


def _reads_only_text(method: str, request: Request) -> bool:
    """Whether nothing will be drawn."""
    return isinstance(ERASERS.load(method), ClosedForm) and request.judge is None and request.preview is None


def _destination(request: Request) -> Path:
    """Where the erasure goes; refuses missing folders before anything is computed."""
    if not request.concepts:
        raise UsageError("no concept was given: name what is to be erased, for example 'church'.")
    output = request.output or Path(f"{request.concepts[0].replace(' ', '-')}.safetensors")
    for path in filter(None, (output, request.preview)):
        if not path.absolute().parent.is_dir():
            raise EffaceError(f"the folder of {path} does not exist: nothing was computed; make it or choose another.")
    return output


def _concepts(request: Request, pipeline: Any) -> tuple[Concept, ...]:
    """The concepts in the words of the model, with the kind and anchor that the user gave."""
    from efface.api.resolve import resolve
    from efface.cli.output import say
    from efface.profiles.base import profile_of

    if request.kind is None:
        for name in request.concepts:
            for remark in profile_of(pipeline).remarks(name):
                say(remark)
    changes: dict[str, Any] = {} if request.kind is None else {"kind": request.kind}
    if request.anchor is not None:
        changes |= {"anchor": request.anchor, "neutral": ()}
    return tuple(dataclasses.replace(concept, **changes) for concept in resolve(request.concepts, pipeline))


def _judge(request: Request, concepts: tuple[Concept, ...], pipeline: Any) -> Any:
    """The judge that looks at pictures while an erasure is made, if one was named."""
    if request.judge is None:
        return None
    from efface.api.resolve import judge_of
    from efface.judges import open_judge

    return judge_of(None, concepts[0], pipeline) if request.judge == "own" else open_judge(request.judge)
