"""Attack an erasure, add what was found to it, and repeat; the attack is a subcommand with its own options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.attack_options import AttackOptions, decide, parse, print_plan, to_arguments
from efface.cli.output import result, say_remarks
from efface.cli.progress import ProgressBar
from efface.errors import EffaceError, UsageError


@dataclasses.dataclass(frozen=True)
class Request(AttackOptions):
    """What is asked whatever the attack; its own options follow."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    concept: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[CONCEPT]")] = None
    """What is attacked; the erasure's concept by default."""
    erasure: Path | None = None
    """The erasure's file."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Where the hardened erasure goes; its folder also gets NAME.attacks with the findings of every round."""
    rounds: int = 3
    """Additions at most."""
    max_drop: float = 0.02
    """What an addition may cost the other concepts (share drawn right, where a judge knows them)."""


def main(args: list[str]) -> None:
    """Run the command."""
    name, request, model, options = parse("harden", __doc__ or "", Request, args)
    if request.erasure is None or request.output is None:
        raise UsageError("give the erasure's file (--erasure FILE) and where the hardened one goes (-o FILE).")
    if not request.output.absolute().parent.is_dir():
        raise EffaceError(
            f"the folder of {request.output} does not exist: nothing was computed; make it or choose another."
        )
    from efface.api.harden import harden, require_hardenable, steps_of_round
    from efface.api.resolve import concept_of
    from efface.erasures import Erasure

    erasure = Erasure.from_pretrained(request.erasure)
    require_hardenable(erasure, {"method": name, "budget": request.budget} | options)
    pipeline = model.load(request.model)
    say_remarks(filter(None, [request.concept]), pipeline)
    target = concept_of(request.concept, [erasure], pipeline)
    arguments = to_arguments(request, model, pipeline, target)
    decisions = decide(name, request, options, arguments, pipeline, target)
    if request.plan:
        decisions |= {"rounds": request.rounds, "training_steps": request.rounds * steps_of_round(erasure)}
        print_plan(decisions, request, arguments, pipeline, target, request.rounds + 1)
        return
    with ProgressBar(f"hardening against {name}") as progress:
        hardened = harden(
            pipeline, erasure, target, rounds=request.rounds, max_drop=request.max_drop,
            method=name, budget=request.budget, folder=request.output.with_suffix(".attacks"), progress=progress,
            **arguments, **options,
        )  # fmt: skip
    data = hardened.to_json() | {"output": str(request.output), "bytes": hardened.erasure.save(request.output)}
    rows = []
    for number, outcome in enumerate(hardened.rounds):
        others = "" if outcome.others is None else f", other concepts right {outcome.others:.1%}"
        kept = " (kept)" if number == hardened.kept else ""
        rows.append(
            (
                f"after {number} additions{kept}",
                f"{outcome.pre_asr.value:.0%} without attack, ASR {outcome.asr}{others}",
            )
        )
    result(data, as_json=request.json, rows=[*rows, ("erasure", str(request.output))])
