"""efface.harden: attack an erasure, add what the attack found to it, and repeat until the attack fails.

RECE is the first case of it: its attack is the closed-form derivation, and what it finds becomes new rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from efface.api.attack import DEFAULT, attack
from efface.api.resolve import concept_of
from efface.attacks import ATTACKS, configured
from efface.attacks.base import Candidate, text_of
from efface.concepts.concept import Concept
from efface.erasers import ERASERS
from efface.erasers.base import Choosy, Evidence, Extensible, FoundInput
from efface.erasures import Erasure
from efface.errors import EffaceError, UsageError
from efface.io.progress import Progress, on_step, silent
from efface.metrics.rates import Rate
from efface.models.model import Model
from efface.profiles.base import profile_of
from efface.redteam.findings import Findings
from efface.redteam.result import SampleResult
from efface.redteam.search import candidates_of
from efface.redteam.store import RunStore
from efface.training.config import Training

FOUND = {"words": "words", "embeddings": "embeddings of words", "states": "text states"}
"""What attacks find, as it is said."""


class Round(NamedTuple):
    """One round: the attack on an erasure, before more is added to it."""

    pre_asr: Rate
    asr: Rate
    gained: Rate
    others: float | None
    """Share of images of other concepts of the kind that show theirs (IRA); None where no judge knows them."""
    seconds: float
    """How long the attack took."""


class Attempt(NamedTuple):
    """An erasure, and what the attack on it came to."""

    erasure: Erasure
    round: Round
    findings: Findings


@dataclass(frozen=True)
class Hardened:
    """The result of hardening."""

    erasure: Erasure
    rounds: tuple[Round, ...]
    """The first is of the erasure as it was given; each of the others has one more addition."""
    kept: int
    """Number of the round whose erasure is returned: of those that cost the other concepts little, the lowest ASR."""
    findings: Findings
    """What the attack on the returned erasure found."""

    def to_json(self) -> dict[str, Any]:
        """Figures of every round."""
        rounds = [
            r._asdict() | {"pre_asr": r.pre_asr._asdict(), "asr": r.asr._asdict(), "gained": r.gained._asdict()}
            for r in self.rounds
        ]
        findings = self.findings
        return {"attack": findings.attack, "concept": findings.concept, "rounds": rounds, "kept": self.kept}


def harden(
    pipeline: Any,
    erasure: Erasure,
    concept: str | Concept | None = None,
    *,
    rounds: int = 3,
    images: int = 4,
    max_drop: float = 0.02,
    folder: str | Path | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Hardened:
    """Attack, add all that was found so far to the erasure as it was given, attack again.

    Args:
        pipeline: the model the erasure was made for, with nothing attached.
        erasure: of a method that can add to what it made (`Extensible`): what was found becomes new rows of a closed form,
            new statistics of an edit of activations, or further texts that a trained eraser with a search in it trains on.
        concept: the erasure's own by default.
        rounds: additions at most.
        images: drawn of each found prompt, from which new statistics are taken.
        max_drop: what an addition may cost the share of other concepts that are drawn right, where a judge knows them; one
            that costs more is shown and not returned.
        folder: of the attacks, one folder a round; resumes if it holds an unfinished run. Training resumes from its snapshots in
            the cache, with a folder or without.
        progress: told the share that is done and a line about it.
        **options: of `efface.api.attack.attack`.

    Raises:
        UsageError: no round, an attack that finds no prompt (a leak, a relapse) or something that the method cannot learn of, an
            erasure that is unfinished, or whose method cannot add to it.
        EffaceError: the attack is broken.
        KeyboardInterrupt: training was interrupted; the same call goes on from its last snapshot.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}; expected at least 1.")
    require_hardenable(erasure, options)
    target = concept_of(concept, [erasure], pipeline)
    model = Model(pipeline)
    profile = profile_of(pipeline)
    current = erasure
    sanity = None
    attempts: list[Attempt] = []
    hits: list[SampleResult] = []
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds + 1):
            path = Path(folder or scratch) / f"round-{number}"

            def tell(done: float, line: str, number: int = number) -> None:
                progress((number + done) / (rounds + 1), f"round {number}: {line}")

            findings = attack(pipeline, current, target, folder=path, progress=tell, known_sanity=sanity, **options)
            sanity = findings.sanity
            if sanity is not None and sanity.broken:
                raise EffaceError(f"the attack cannot be learnt from; it is {sanity.verdict}.")
            outcome = Round(
                pre_asr=findings.pre_asr,
                asr=findings.asr,
                gained=findings.gained,
                others=profile.retained_rate(model, current, target),
                seconds=findings.cost.seconds,
            )
            attempts.append(Attempt(current, outcome, findings))
            new = [result for result in findings.samples if result.trace and result.after.shown]
            if not new or number == rounds:
                break
            hits += new
            candidates += candidates_of(RunStore(path, None), new)
            with on_step(lambda step: tell(1.0, str(step))):
                current = extended(model, erasure, target, hits, candidates, images=images, rounds=number + 1)
            if "unfinished" in current.provenance.notes:  # by Ctrl-C; the same call goes on from the last snapshot
                raise KeyboardInterrupt
    return _kept(attempts, max_drop)


def _kept(attempts: Sequence[Attempt], max_drop: float) -> Hardened:
    """The best of the attempts, with the story of all in its notes."""
    rounds = tuple(attempt.round for attempt in attempts)
    kept = best(rounds, max_drop)
    origin = attempts[kept].erasure.provenance
    findings = attempts[kept].findings
    history = {"attack": findings.attack, "asr": [r.asr.value for r in rounds], "kept": kept}
    origin = replace(origin, notes=origin.notes | {"hardened": history})
    return Hardened(
        erasure=replace(attempts[kept].erasure, provenance=origin), rounds=rounds, kept=kept, findings=findings
    )


def best(rounds: Sequence[Round], max_drop: float) -> int:
    """The first round of the lowest ASR among those that cost the other concepts at most `max_drop`."""
    first = rounds[0].others or 0.0
    allowed = [n for n, r in enumerate(rounds) if r.others is None or first - r.others <= max_drop]
    return min(allowed, key=lambda n: rounds[n].asr.value)


def extended(
    model: Model,
    erasure: Erasure,
    concept: Concept,
    hits: Sequence[SampleResult],
    candidates: Sequence[Candidate],
    *,
    images: int,
    rounds: int,
) -> Erasure:
    """The erasure with what the attacks of all rounds found added to it, by its own method."""
    evidence = Evidence(
        concept=concept,
        text=text_of(model, candidates),
        prompts=tuple(hit.text for hit in hits),
        anchors=tuple(concept.anchor_of(hit.sample.prompt) for hit in hits),
        images=images,
        rounds=rounds,
        found=tuple(
            FoundInput(hit.sample.prompt, c.ids, c.soft, only_states=c.states is not None)
            for hit, c in zip(hits, candidates, strict=True)
        ),
    )
    return _extensible(erasure).extend(model, erasure, evidence)


def steps_of_round(erasure: Erasure) -> int:
    """Training steps that adding to an erasure takes; 0 where nothing is trained."""
    config = ERASERS.load(erasure.provenance.method).Config
    return erasure.provenance.config["iterations"] if issubclass(config, Training) else 0


def _extensible(erasure: Erasure) -> Extensible:
    """The method that made an erasure; raises UsageError where nothing is called so, or it cannot add to what it made."""
    method = erasure.provenance.method
    if left := erasure.provenance.notes.get("unfinished"):
        raise UsageError(
            f"the erasure is unfinished ({left} training steps are left): finish it by the command that made it, then harden it."
        )
    if method not in ERASERS and erasure.provenance.plugin:
        raise UsageError(f"the method {method!r} is of the plugin {erasure.provenance.plugin}: install it to harden.")
    eraser = ERASERS.load(method)
    if not isinstance(eraser, Extensible):
        raise UsageError(f"the method {method!r} cannot add to its erasures (it has no `extend`): erase anew instead.")
    if erasure.kind != eraser.EXTENDS:
        raise UsageError(
            f"an erasure of kind {erasure.kind!r} by {method!r} cannot be hardened; expected one of kind {eraser.EXTENDS!r}."
        )
    return eraser


def require_hardenable(erasure: Erasure, options: Mapping[str, Any]) -> None:
    """Raise UsageError, before anything is attacked, where an erasure cannot be hardened by an attack.

    Args:
        erasure: is finished, and of a method that can add to it.
        options: of `efface.api.attack.attack`; by them it finds something of which the method can learn.
    """
    eraser = _extensible(erasure)
    name = options.get("method", DEFAULT)
    config = options.get("config")
    if config is None:
        fields = {k: v for k, v in options.items() if k in ATTACKS.load(name).config.__dataclass_fields__}
        config = configured(name, options.get("budget", "published"), **fields)
    finding = ATTACKS.load(name).finds(config)
    if finding == "nothing":
        raise UsageError(
            f"{name} finds no prompt that could be added to the erasure (it changes weights, or starts from pictures); expected an "
            "attack that searches for one."
        )
    learns = eraser.LEARNS if isinstance(eraser, Choosy) else (finding,)
    if finding not in learns:
        raise UsageError(
            f"{name} finds {FOUND[finding]}, and {erasure.provenance.method} learns of "
            f"{' and '.join(FOUND[f] for f in learns)} alone: harden with an attack that finds them."
        )
