"""Audit erasures: what each removed, what it damaged, as one page with pictures and intervals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say, say_decisions
from efface.cli.progress import duration
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.api.audit import AuditPlan
    from efface.api.card import Card
    from efface.cli.model_options import DrawingOptions
    from efface.erasures import Erasure


@dataclass(frozen=True)
class Request:
    """Draw before and after on the same seeds; several erasures stand side by side on one page."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    erasure: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """An erasure file, once for each."""
    policies: Annotated[Path | None, tyro.conf.arg(metavar="MANIFEST")] = None
    """Instead of erasures, a manifest that `efface policies make` wrote: one card a policy, in a folder of its name."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = Path("card")
    """Folder for card.html and card.json."""
    judge: str | None = None
    """Says what pictures show, for example nudenet or clip:FOLDER:church,house; the emoji canvas brings its own. A detector
    (nudenet) counts a picture in which it finds anything."""
    indirect: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A prompt that means the concept without naming it, once for each."""
    time_limit: str = "5min"
    """Time for the first erasure: 90s, 5min, 1h; the others are drawn on the same seeds. An audit that was stopped goes on in
    its folder."""
    seeds: int | None = None
    """Pictures of every prompt, instead of as many as the time affords."""
    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Guidance scale."""
    attacks: tuple[str, ...] = ()
    """Attacks to run on the erasure (see `efface attack --help`), or `all`; they take their own time, and an audit that was
    stopped resumes them."""
    budget: str | None = None
    """How far each attack goes: published, canvas or quick; canvas on the emoji canvas, published elsewhere."""
    samples: int = 8
    """Samples (a prompt and a seed each) that each attack is given."""
    base: str | None = None
    """Audit MODEL as a whole against the model that it was made of, instead of erasures: did it forget, or does it only fool
    the judge?"""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """With --base: a prompt that names a class of the judge, once for each; the embedded models bring their own."""
    second_judge: str | None = None
    """With --base: an independent judge; by default the class of the nearest of the base's own pictures."""
    plan: bool = False
    """Only say what will be drawn and what it will cost, measured on two denoising steps."""
    json: bool = False
    """Print the card's JSON instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request, model = parse_on_model(Request, args, prog="efface audit", description=__doc__)
    if request.seeds is not None and request.seeds < 1:
        raise UsageError(f"seeds is {request.seeds}; expected at least 1.")
    if request.base is not None:
        _audit_base(request, model)
        return
    if request.prompt or request.second_judge:
        raise UsageError("prompt and second-judge are of audits of a whole checkpoint: name its base with --base.")
    if bool(request.erasure) == (request.policies is not None):
        raise UsageError(
            f"{'erasures and policies were' if request.erasure else 'no erasure was'} given: name files with --erasure, or a manifest "
            "with --policies, or a checkpoint's base with --base."
        )
    time_limit = seconds_of(request.time_limit)
    from efface.api.audit import plan_audit
    from efface.api.red_team import RedTeam
    from efface.api.smoothing import judge_named
    from efface.cli.progress import ProgressBar
    from efface.io.progress import part
    from efface.profiles.base import profile_of
    from efface.redteam.samples import Samples

    red_team = None
    if request.attacks:
        level = request.budget or "published"
        red_team = RedTeam(request.attacks, level, Samples(request.samples))  # refuses unknown names
    erasures = _erasures(request)
    pipeline = model.load(request.model)
    if red_team and request.budget is None:
        red_team = replace(red_team, budget=profile_of(pipeline).attack_budget())
    prompts = [prompt for _, e in erasures for concept in e.provenance.concepts for prompt in concept.prompts()]
    judge = None if request.judge is None else judge_named(request.judge, pipeline, prompts)
    plans: list[AuditPlan] = []
    for _, erasure in erasures:
        plan = plan_audit(
            pipeline,
            erasure,
            judge=judge,
            indirect=request.indirect,
            time_limit=time_limit,
            # The same pictures for all, so that they can be compared one by one.
            seeds=len(plans[0].seeds) if plans else request.seeds,
            sampling=model.sampling(request.steps, request.guidance),
            red_team=red_team,
            folder=request.output,
            measure=not plans,
        )
        plans.append(plan)
    names = [name for name, _ in erasures]
    _say_plans(plans, names, request)
    if request.plan:
        return
    cards = []
    sanity_cache = {}
    with ProgressBar("auditing") as progress:
        for number, (name, plan) in enumerate(zip(names, plans, strict=True)):
            share = part(progress, number / len(plans), (number + 1) / len(plans), name)
            cards.append(plan.run(sanity_cache, share))
    if request.policies is None:
        _give(cards, request)
    else:
        _give_policies(dict(zip(names, cards, strict=True)), request)


def _erasures(request: Request) -> list[tuple[str, Erasure]]:
    """What is audited: each file, or each policy that erases anything."""
    from efface.erasures import Erasure, Manifest
    from efface.erasures.together import Together

    if request.policies is None:
        return [(str(path), Erasure.from_pretrained(path)) for path in request.erasure]
    policies = Manifest.read(request.policies).load()
    for name in (name for name, erasures in policies.items() if not erasures):
        say(f"the policy {name} erases nothing and has no card")
    found = [(name, Together.of(erasures)) for name, erasures in policies.items() if erasures]
    if not found:
        raise UsageError(f"no policy of {request.policies} erases anything: there is nothing to audit.")
    return found


def _give(cards: Sequence[Card], request: Request) -> None:
    """One page of all cards."""
    from efface.api.card import write_cards

    page = write_cards(cards, request.output)
    data = {"card": str(page), "cards": [card.to_json() for card in cards]}
    result(data, as_json=request.json, rows=[*_suffered(cards), ("card", str(page)), *_rows(cards)])


def _give_policies(cards: Mapping[str, Card], request: Request) -> None:
    """A page for each policy."""
    from efface.api.card import write_card

    named = {name: replace(card, decisions={"policy": name} | card.decisions) for name, card in cards.items()}
    pages = {name: str(write_card(card, request.output / name)) for name, card in named.items()}
    data = {"cards": pages, "policies": {name: card.to_json() for name, card in named.items()}}
    rows = [
        (f"{name} {what}", said) for name, card in named.items() for what, said in (*_suffered([card]), *_rows([card]))
    ]
    result(data, as_json=request.json, rows=[*rows, *((f"{name} card", page) for name, page in pages.items())])


def _audit_base(request: Request, model: DrawingOptions) -> None:
    """Audit the model as a whole; raises UsageError for options of other audits."""
    from efface.cli.audit_checkpoint import CheckpointRequest, audit_base

    others = {
        "erasure": request.erasure,
        "policies": request.policies,
        "attacks": request.attacks,
        "indirect": request.indirect,
    }
    for name in (name for name, given in others.items() if given):
        raise UsageError(f"{name} is of other audits, and --base audits a whole checkpoint: leave one of them out.")
    checkpoint = CheckpointRequest(
        candidate=request.model,
        base=str(request.base),
        prompts=request.prompt,
        judge=request.judge,
        second_judge=request.second_judge,
        seeds=request.seeds or 2,
        steps=request.steps,
        guidance=request.guidance,
        output=request.output,
        plan=request.plan,
        json=request.json,
    )
    audit_base(checkpoint, model)


def _suffered(cards: Sequence[Card]) -> Iterator[tuple[str, str]]:
    """What was to be kept and suffered most from each erasure."""
    for card in cards:
        if card.suffered:
            yield f"{card.erasure['method']} suffered most", str(card.suffered)


def _rows(cards: Sequence[Card]) -> Iterator[tuple[str, str]]:
    """What each erasure did to each group of prompts, and what each attack brought back."""
    for card in cards:
        method = card.erasure["method"]
        for group in card.groups:
            shown = f"{group.shown_before.value:.0%} → {group.shown_after}, " if group.shown_before else ""
            yield f"{method} {group.name}", f"{shown}pictures differ by {group.distance:.3f}"
        for attack in card.attacks:
            yield f"{method} {attack.attack}", attack.line


def _say_plans(plans: Sequence[AuditPlan], names: Sequence[str], request: Request) -> None:
    """What was decided and what it will cost; the whole result where only that is asked for."""
    from efface.models.timing import model_bytes
    from efface.report.decisions import drawing_rows

    first = plans[0]
    missing = pictures_missing(plans)
    seconds = 0.0 if not missing else None if first.seconds_each is None else round(missing * first.seconds_each, 1)
    weights = model_bytes(first.model.pipeline)
    say_decisions([("erasure" if request.erasure else "policy", ", ".join(names)), *drawing_rows(first.decisions)])
    attacked = "; attacks take their own time" if first.red_team else ""
    time_needed = (
        "" if first.seconds_each is None else f", about {duration(seconds or 0)} at {first.seconds_each:.3g} s each"
    )
    say(f"{missing} pictures still to draw{time_needed}{attacked}; {weights / 1e9:,.2f} GB of weights")
    if request.plan:
        data = first.decisions | {"erasures" if request.erasure else "policies": list(names), "pictures": missing}
        data |= {"seconds": seconds, "model_bytes": weights}
        rows = [(name, str(data[name])) for name in ("pictures", "seconds", "model_bytes")]
        result(data, as_json=request.json, rows=rows)


def pictures_missing(plans: Sequence[AuditPlan]) -> int:
    """Pictures that audits of several erasures still have to draw, those of the unerased model once."""
    keys = {
        key
        for plan in plans
        for erasure in (None, plan.erasure)
        for key in plan.store.keys([sample for _, sample in plan.work], erasure)
        if not plan.store.has(key)
    }
    return len(keys)


def seconds_of(text: str) -> float:
    """Seconds of "90", "90s", "5min" or "1h"; raises UsageError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text.strip())
    if not match:
        raise UsageError(f"the time {text!r} is not understood; expected a time such as 90s, 5min or 1h.")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2] or "s"]
