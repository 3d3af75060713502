"""What the commands attack and harden share: their options, and how findings are printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from efface.attacks import ATTACKS, attack_module, attack_summaries
from efface.cli.output import result, say
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
