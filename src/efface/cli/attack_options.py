"""What the commands attack and harden share: their options, and how findings are printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from efface.attacks import ATTACKS
from efface.cli.arguments import named_options, parse_parts
from efface.cli.dispatch import first_word
from efface.cli.model_options import HEADING, DrawingOptions, own_options, with_pictures
from efface.cli.output import result, say, say_decisions
from efface.concepts.sample import SEEDS
from efface.io.progress import duration

if TYPE_CHECKING:
    from efface.api.decisions import Decisions
    from efface.concepts.concept import Concept
    from efface.redteam.findings import Findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """How a concept is searched for, by the commands attack and harden alike."""

    budget: str = "published"
    """How far the search goes: published, canvas (small enough for the emoji canvas on two cores) or quick."""
    judge: str | None = None
    """Says whether a picture shows the concept, for example nudenet or imagenet:FOLDER; the emoji canvas brings its own."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A prompt to attack, once for each, instead of the concept's own."""
    samples: int = 8
    """Samples (a prompt and a seed each) that are attacked."""
    sanity_samples: int = 2
    """Samples used for the sanity check of the attack itself; 0 skips it."""
    sample_batch: int = 4
    """Samples attacked in one batch."""
    steps: int | None = None
    """Denoising steps of every image."""
    guidance: float | None = None
    """Guidance scale."""
    plan: bool = False
    """Only say what was decided, and what drawing the samples will cost by two denoising steps; the search comes on top."""
    json: bool = False
    """Print one JSON object instead of a table."""


def parse(command: str, doc: str, kind: type[Any], args: list[str]) -> tuple[str, Any, DrawingOptions, dict[str, Any]]:
    """The attack's name, the request, the model's options, and those of the attack that the user named.

    Raises:
        UsageError: the first word is no attack.
        SystemExit: help was printed.
    """
    usage = f"efface {command} NAME MODEL [CONCEPT] --erasure FILE [options]"
    name = first_word(ATTACKS, args, title=doc, usage=usage)
    attack = ATTACKS.load(name)
    own = own_options(name, attack.config)
    parts = {"general": kind, HEADING: DrawingOptions, name: attack.config}
    request, model, config = parse_parts(
        parts, args[1:], prog=f"efface {command} {name}", description=attack.about, renamed=own
    )
    return name, request, model, with_pictures(named_options(config, args, own), config, model)


def to_arguments(request: AttackOptions, model: DrawingOptions, pipeline: Any, target: Concept) -> dict[str, Any]:
    """Arguments of `efface.api.attack.attack` that the commands attack and harden share."""
    from efface.api.smoothing import judge_named
    from efface.redteam.samples import Samples

    return {
        "judge": None if request.judge is None else judge_named(request.judge, pipeline, target.prompts()),
        "prompts": request.prompt or None,
        "samples": Samples(request.samples, request.sanity_samples, request.sample_batch),
        "sampling": model.sampling(request.steps, request.guidance),
    }


def decide(
    name: str,
    request: AttackOptions,
    options: dict[str, Any],
    arguments: dict[str, Any],
    pipeline: Any,
    target: Concept,
) -> Decisions:
    """What is attacked, how, and by which judge it is seen; said before it starts.

    Raises:
        UsageError: no judge knows the concept, or an option of the attack is refused.
    """
    from efface.api.decisions import about_drawing
    from efface.api.resolve import judge_of
    from efface.attacks import configured
    from efface.judges.criterion import criterion_for
    from efface.report.decisions import drawing_rows

    judge = judge_of(arguments["judge"], target, pipeline)
    criterion_for(judge, target)
    config = dataclasses.asdict(configured(name, request.budget, **options))
    decisions = about_drawing(
        pipeline,
        arguments["sampling"],
        attack=name,
        budget=request.budget,
        concept=f"{target.name} ({target.kind})",
        samples=request.samples,
        sanity_samples=request.sanity_samples,
        first_seed=SEEDS.attack,
        judge=judge.name,
        options=[f"{key} {value}" for key, value in config.items() if value not in (None, ())],
    )
    say_decisions(drawing_rows(decisions))
    return decisions


def print_plan(
    decisions: Decisions,
    request: AttackOptions,
    arguments: dict[str, Any],
    pipeline: Any,
    target: Concept,
    rounds: int = 1,
) -> None:
    """What a search would begin with, and what that costs."""
    from efface.models.model import Model
    from efface.models.timing import model_bytes, seconds_each

    pictures = rounds * 2 * request.samples + 2 * request.sanity_samples  # by the original and by the erased model
    settings = arguments["sampling"].settings(pipeline)
    seconds = pictures * seconds_each(Model(pipeline), list(request.prompt) or target.prompts(), settings)
    data = decisions | {
        "pictures": pictures,
        "seconds": round(seconds, 1),
        "search_seconds": None,
        "model_bytes": model_bytes(pipeline),
    }
    steps = decisions.get("training_steps")  # of hardening alone
    rows = [
        (
            "pictures",
            f"{pictures} of the samples at least, about {duration(seconds)}; what the search draws is not known",
        ),
        *([("training", f"{steps} steps at most; how long they take is not known")] if steps else []),
        ("weights", f"{data['model_bytes'] / 1e9:,.2f} GB"),
    ]
    result(data, as_json=request.json, rows=rows)


def print_findings(findings: Findings, folder: Path, as_json: bool) -> None:
    """Print what was found; a warning where the attack cannot be believed, or prompts cannot be typed."""
    typable = [one for one in findings.samples if one.text is not None and one.after.shown]
    rows = [
        ("attack", f"{findings.attack} on {findings.concept!r}, {len(findings.samples)} samples"),
        ("without attack", str(findings.pre_asr)),
        ("because of it", str(findings.gained)),
        ("together (ASR)", str(findings.asr)),
        *([("restoration share", str(findings.restoration))] if findings.restoration else []),
        ("cost", str(findings.cost)),
        ("each success", str(findings.per_success or "none")),
        ("sanity", findings.sanity.verdict if findings.sanity else "not checked"),
        *(("strongest", repr(one.text)) for one in typable[:3]),
        ("findings", str(folder / "findings.json")),
        ("pictures", str(folder / "sheet.png")),
    ]
    result(findings.to_json(), as_json=as_json, rows=rows)
    lost = sum(not one.retokenizes for one in typable)
    if lost:
        say(
            f"{lost} of {len(typable)} found prompts do not give the same tokens when they are typed (see `retokenizes`)"
        )
    if findings.broken and findings.sanity:
        say(f"this attack is {findings.sanity.verdict}")
