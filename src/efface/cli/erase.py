"""Make an erasure; the method is a subcommand with its own options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from efface.cli.output import result, say
from efface.concepts.concept import Concept
from efface.erasers import METHODS, method_module, method_summaries
from efface.errors import EffaceError, UsageError


@dataclasses.dataclass(frozen=True)
class Request:
    """What every method is asked; its own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    concepts: tyro.conf.Positional[tuple[str, ...]]
    """Names or presets (nudity, unsafe, imagenette, artists) of what is to be erased."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The erasure's file; CONCEPT.safetensors by default."""
    kind: Literal["object", "style", "person", "explicit", "abstract"] | None = None
    """Kind of the concepts, where the name alone does not say."""
    anchor: str | None = None
    """What takes the concept's place; the method's default otherwise."""
    preview: Path | None = None
    """Also write a sheet of pictures before and after."""
    steps: int | None = None
    """Denoising steps of the preview."""
    judge: Literal["canvas"] | None = None
    """Let the canvas's judges look at pictures: RECE keeps its best epoch, SAeUron calibrates (--calibrate)."""
    as_published: bool = False
    """The paper's own settings and its public code's traps: nothing retained but its neutral prompt (RECE, UCE), the error
    term with the wrong sign (SAeUron), no settings of the canvas."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:8} {summary}" for name, summary in method_summaries().items()]
        print("\n".join([__doc__ or "", "usage: efface erase METHOD MODEL CONCEPT... [options]", "", *lines]))
        raise SystemExit(0 if args else 2)
    if args[0].startswith("-"):
        raise UsageError(f"the method comes first; expected one of {', '.join(METHODS)}, found {args[0]!r}.")
    module = method_module(args[0])
    request, options = _parse(module, args[0], args[1:])
    _erase(args[0], request, options)


def _parse(module: Any, method: str, args: list[str]) -> tuple[Request, dict[str, Any]]:
    """The request, and those options of the method that the user named."""
    combined = tyro.conf.OmitArgPrefixes[tuple[Request, module.Config]]
    request, config = tyro.cli(combined, args=args, prog=f"efface erase {method}", description=module.__doc__)
    # An option that was not named must not override the preset of the model, even where the defaults agree.
    named = {
        arg.split("=")[0].lstrip("-").removeprefix("no-").replace("-", "_") for arg in args if arg.startswith("--")
    }
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in named}
    if "keep" in options:
        options["keep"] = _keep(options["keep"])
    elif request.as_published:
        options["keep"] = ()
    return request, options


def _keep(given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Prompts as given; `none` for none; the lines of a .txt file."""
    if not given or given == ("none",):
        return ()
    kept: list[str] = []
    for item in given:
        path = Path(item)
        if path.suffix != ".txt":
            kept.append(item)
        elif path.is_file():
            kept += [line.strip() for line in path.read_text().splitlines() if line.strip()]
        else:
            raise UsageError(f"{item} is not a file; give --keep prompts, a .txt file with one prompt a line, or none.")
    return tuple(kept)


def _erase(method: str, request: Request, options: dict[str, Any]) -> None:
    from efface.api.erase import erase
    from efface.models.load import load

    output = _destination(request)
    pipeline = load(request.model)
    concepts = _concepts(request, pipeline)
    settings = {"config": _published(method, concepts, pipeline, options)} if request.as_published else options
    erasure = erase(pipeline, concepts, method=method, judge=_judge(request, concepts, pipeline), **settings)
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

        preview(pipeline, erasure, request.preview, steps=request.steps)
        data["preview"] = str(request.preview)
    rows = [(name, ", ".join(value) if isinstance(value, list) else str(value)) for name, value in data.items()]
    result(data, as_json=request.json, rows=rows)


def _published(method: str, concepts: tuple[Concept, ...], pipeline: Any, options: dict[str, Any]) -> Any:
    """The paper's own options, with the public code's traps; of the model's settings only the place that is edited."""
    from efface.profiles.base import profile_of

    module = method_module(method)
    place = {k: v for k, v in profile_of(pipeline).settings(method, concepts[0]).items() if k == "site"}
    return module.Config(**place | getattr(module, "AS_PUBLISHED", {}) | options)


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
    """The judge that chooses the epoch, if one was asked for."""
    if request.judge is None:
        return None
    from efface.api.resolve import judge_of

    return judge_of(None, concepts[0], pipeline)
