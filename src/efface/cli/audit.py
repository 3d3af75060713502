"""Audit erasures: what each removed, what it damaged, as one page with pictures and intervals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.audit_answers import audit_what_is_said
from efface.cli.audit_plan import give_plans, say_plans
from efface.cli.model_options import parse_on_model
from efface.cli.output import result, say
from efface.errors import UsageError
from efface.models.vlm_folder import is_vlm_folder

if TYPE_CHECKING:
    from efface.api.audit import AuditPlan
    from efface.api.card import Card
    from efface.cli.model_options import DrawingOptions
    from efface.concepts.concept import Concept
    from efface.concepts.languages import Translations
    from efface.erasures import Erasure


@dataclass(frozen=True)
class Request:
    """Draw before and after on the same seeds; several erasures stand side by side on one page."""

    model: tyro.conf.Positional[str]
    """`emoji`, a hub id, a diffusers folder, a .safetensors checkpoint, or a vision-language model's folder."""
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
    words: tuple[str, ...] = ()
    """Levels of other words to ask for the concept by: name, synonym, description, typo, language, pair; all or none. By default as
    many as fit into half of the time limit, none where a number of pictures is given; named ones take their own time."""
    translations: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A CSV file of lines such as church,de,Kirche;Gotteshaus: names in other languages, beside those that are known."""
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
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Of a vision-language model: pictures that it is asked about, in sub-folders by what they show, and in those by their style where
    it is known."""
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
    if is_vlm_folder(Path(request.model)):
        audit_what_is_said(request.model, request.erasure, request.images, request.output, model, as_json=request.json)
        return
    if request.images is not None:
        raise UsageError("images are of audits of a vision-language model, which is asked about them: leave them out.")
    _audit_erasures(request, model)


def _audit_erasures(request: Request, model: DrawingOptions) -> None:
    """One card for each erasure or policy, or only what it would cost."""
    from efface.cli.progress import ProgressBar
    from efface.io.progress import part

    plans = _plans(request, model)
    say_plans(plans, of="erasure" if request.erasure else "policy")
    if request.plan:
        give_plans(plans, of="erasures" if request.erasure else "policies", as_json=request.json)
        return
    cards: list[Card] = []
    sanity_cache = {}
    with ProgressBar("auditing") as progress:
        for number, (name, plan) in enumerate(plans):
            share = part(progress, number / len(plans), (number + 1) / len(plans), name)
            cards.append(plan.run(sanity_cache, share))
    if request.policies is None:
        _give(cards, request)
    else:
        _give_policies({name: card for (name, _), card in zip(plans, cards, strict=True)}, request)


def _plans(request: Request, model: DrawingOptions) -> list[tuple[str, AuditPlan]]:
    """Name of each erasure or policy, and what is decided of its audit; what is unknown is refused before the model is loaded."""
    time_limit = seconds_of(request.time_limit)
    from efface.api.audit import plan_audit
    from efface.api.red_team import RedTeam
    from efface.api.smoothing import judge_named
    from efface.concepts.levels import checked_levels
    from efface.profiles.base import profile_of
    from efface.redteam.samples import Samples

    red_team = None
    if request.attacks:
        level = request.budget or "published"
        red_team = RedTeam(request.attacks, level, Samples(request.samples))  # refuses unknown names
    checked_levels(request.words)
    erasures = _erasures(request)
    translations = _translations(request, [concept for _, e in erasures for concept in e.provenance.concepts])
    pipeline = model.load(request.model)
    if red_team and request.budget is None:
        red_team = replace(red_team, budget=profile_of(pipeline).attack_budget())
    prompts = [prompt for _, e in erasures for concept in e.provenance.concepts for prompt in concept.prompts()]
    judge = None if request.judge is None else judge_named(request.judge, pipeline, prompts)
    first: AuditPlan | None = None
    plans: list[tuple[str, AuditPlan]] = []
    for name, erasure in erasures:
        words = request.words or None
        if first and words is None and translations is None:
            words = first.words.names
        plan = plan_audit(
            pipeline,
            erasure,
            judge=judge,
            indirect=request.indirect,
            time_limit=time_limit,
            # The same pictures for all, so that they can be compared one by one.
            seeds=len(first.seeds) if first else request.seeds,
            words=words,
            translations=translations,
            sampling=model.sampling(request.steps, request.guidance),
            red_team=red_team,
            folder=request.output,
            measure=first is None,
        )
        first = first or plan
        plans.append((name, plan))
    return plans


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


def _translations(request: Request, concepts: Sequence[Concept]) -> Translations | None:
    """A user's names in other languages, of which at least one concept of the erasures has some."""
    from efface.concepts.languages import check_translations, read_translations

    if request.translations is None:
        return None
    found = read_translations(request.translations)
    check_translations(found, concepts)
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
        "words": request.words,
        "translations": request.translations,
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
        for level in card.words:
            yield f"{method} by {level.level}", level.line
        for attack in card.attacks:
            yield f"{method} {attack.attack}", attack.line


def seconds_of(text: str) -> float:
    """Seconds of "90", "90s", "5min" or "1h"; raises UsageError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", text.strip())
    if not match:
        raise UsageError(f"the time {text!r} is not understood; expected a time such as 90s, 5min or 1h.")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2] or "s"]
