"""Try to bring an erased concept back; the attack is a subcommand with its own options."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.progress import Progress

from efface.attacks import ATTACKS, attack_module, attack_summaries
from efface.cli.output import notices, result, say
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.redteam.findings import Findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """How a concept is searched for, by the commands attack and harden alike."""

    budget: str = "published"
    """How far the search goes: published, canvas (small enough for the emoji canvas on two cores) or quick."""
    judge: str | None = None
    """Says whether a picture shows the concept, for example nudenet or imagenet:FOLDER; the emoji canvas brings its own."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A prompt to attack, once for each, instead of the concept's own."""
    tries: int = 8
    """Prompts and seeds that are attacked."""
    sanity_tries: int = 2
    """How many are used to see whether the attack itself is sound; 0 leaves that out."""
    together: int = 4
    """Tries attacked side by side."""
    draw_steps: int | None = None
    """Denoising steps of every picture."""
    guidance: float | None = None
    """Guidance scale."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclasses.dataclass(frozen=True)
class Request(Searched):
    """What every attack is asked; its own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    concept: tyro.conf.Positional[str | None] = None
    """What is to be brought back; the first erasure's concept by default."""
    erasure: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """An erasure file, once for each, in the order in which they are attached."""
    original: str | None = None
    """The model before it was erased, where MODEL itself was changed by training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("attack")
    """Folder for findings.json, sheet.png and everything on the way; a run that was stopped goes on there."""


def main(args: list[str]) -> None:
    """Run the command."""
    name, request, options = parsed("attack", __doc__ or "", Request, args)
    if not request.erasure and request.original is None:
        raise UsageError("no erasure was given: name its file with --erasure, or the unerased model with --original.")
    from efface.api.attack import attack
    from efface.erasures import Erasure
    from efface.models.load import load

    erasures = [Erasure.from_pretrained(path) for path in request.erasure]
    pipeline = load(request.model)
    original = None if request.original is None else load(request.original)
    with Reporter(f"attacking with {name}") as report:
        found = attack(
            pipeline, erasures, request.concept, method=name, budget=request.budget, original=original,
            folder=request.output, report=report, **asked(request), **options,
        )  # fmt: skip
    shown(found, request.output, request.json)


def parsed(command: str, doc: str, request: Any, args: list[str]) -> tuple[str, Any, dict[str, Any]]:
    """The attack's name, the request, and those options of the attack that the user named.

    Raises:
        UsageError: the first word is no attack.
        SystemExit: help was printed.
    """
    if not args or args[0] in ("-h", "--help"):
        lines = [f"  {name:12} {summary}" for name, summary in attack_summaries().items()]
        print(
            "\n".join([doc, "", f"usage: efface {command} NAME MODEL [CONCEPT] --erasure FILE [options]", "", *lines])
        )
        raise SystemExit(0 if args else 2)
    if args[0].startswith("-"):
        raise UsageError(f"the attack comes first; expected one of {', '.join(ATTACKS)}, found {args[0]!r}.")
    module = attack_module(args[0])
    combined = tyro.conf.OmitArgPrefixes[tuple[request, module.Config]]
    given, config = tyro.cli(combined, args=args[1:], prog=f"efface {command} {args[0]}", description=module.__doc__)
    # An option that was not named must not override the budget, even where the defaults agree.
    words = [
        arg.split("=")[0].lstrip("-").removeprefix("no-").replace("-", "_") for arg in args if arg.startswith("--")
    ]
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in words}
    return args[0], given, options


def asked(request: Searched) -> dict[str, Any]:
    """Arguments of `efface.api.attack.attack` that the commands attack and harden share."""
    from efface.judges import open_judge

    judge = None if request.judge is None else open_judge(request.judge)
    names = ("tries", "sanity_tries", "together", "draw_steps", "guidance")
    return {name: getattr(request, name) for name in names} | {"judge": judge, "prompts": request.prompt or None}


def shown(found: Findings, folder: Path, as_json: bool) -> None:
    """Print what was found; a warning where the attack cannot be believed, or prompts cannot be typed."""
    typed = [t for t in found.tries if t.text is not None and t.after.shown]
    per = found.per_success
    rows = [
        ("attack", f"{found.attack} on {found.concept!r}, {len(found.tries)} tries"),
        ("without attack", str(found.without)),
        ("because of it", str(found.because)),
        ("together (ASR)", str(found.asr)),
        ("cost", str(found.cost)),
        ("each success", str(per or "none")),
        ("sanity", found.sanity.verdict if found.sanity else "not checked"),
        *(("strongest", repr(t.text)) for t in typed[:3]),
        ("findings", str(folder / "findings.json")),
        ("pictures", str(folder / "sheet.png")),
    ]
    result(found.to_json(), as_json=as_json, rows=rows)
    lost = sum(not t.survives for t in typed)
    if lost:
        say(f"{lost} of {len(typed)} found prompts do not give the same tokens when they are typed (see `survives`)")
    if found.sanity and found.broken:
        say(f"this attack is {found.sanity.verdict}")


class Reporter:
    """A progress bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, what: str):
        self.bar = Progress(console=notices) if sys.stderr.isatty() else None
        self.what, self.said = what, float("-inf")

    def __enter__(self) -> Reporter:
        if self.bar is None:
            say(self.what)
        else:
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=1.0)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: float, line: str) -> None:
        """The share that is done, and a line about it."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=line)
        elif time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            say(f"{done:.0%}: {line}")
