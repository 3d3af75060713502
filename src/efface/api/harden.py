"""efface.harden: attack an erasure, add what the attack found to it, and repeat until the attack fails.

RECE is the first case of it: its attack is the closed-form derivation, and what it finds becomes new rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from efface.api.attack import attack
from efface.api.resolve import concept_of
from efface.attacks.base import Candidate, text_of
from efface.concepts.concept import Concept
from efface.erasers import method_module
from efface.erasers.base import Evidence
from efface.erasures import ActivationEdit, Erasure, TextMap
from efface.errors import EffaceError, UsageError
from efface.metrics.rates import Rate
from efface.models.model import Model
from efface.profiles.base import profile_of
from efface.redteam.findings import Findings, Found
from efface.redteam.run import Report
from efface.redteam.search import candidates_of
from efface.redteam.store import Book


class Stage(NamedTuple):
    """One round: an attack, before anything was added."""

    without: Rate
    asr: Rate
    because: Rate
    others: float | None
    """Share of pictures of other concepts of the kind that show theirs (IRA); None where no judge knows them."""
    seconds: float


@dataclass(frozen=True)
class Hardened:
    """What hardening came to."""

    erasure: Erasure
    stages: tuple[Stage, ...]
    """The first is the erasure as it was given; each of the others has one more addition."""
    kept: int
    """The stage that is returned: of those that cost the other concepts little, the one with the lowest ASR."""
    findings: Findings
    """Of its attack."""

    def to_json(self) -> dict[str, Any]:
        """Figures of every round."""
        rates = ("without", "asr", "because")
        stages = [s._asdict() | {name: getattr(s, name)._asdict() for name in rates} for s in self.stages]
        found = self.findings
        return {"attack": found.attack, "concept": found.concept, "stages": stages, "kept": self.kept}


def harden(
    pipeline: Any,
    erasure: Erasure,
    concept: str | Concept | None = None,
    *,
    rounds: int = 3,
    pictures: int = 4,
    most_lost: float = 0.02,
    folder: str | Path | None = None,
    report: Report = lambda done, line: None,
    **options: Any,
) -> Hardened:
    """Attack, add all that was found so far to the erasure as it was given, attack again.

    Args:
        pipeline: the model the erasure was made for, with nothing attached.
        erasure: a text map (closed forms: what was found becomes new rows) or an edit of activations (new statistics).
        concept: the erasure's own by default.
        rounds: additions at most.
        pictures: of each found prompt, from which new statistics are taken.
        most_lost: what an addition may cost the share of other concepts that are drawn right, where a judge knows them; one
            that costs more is shown and not returned.
        folder: of the attacks, one folder a round; a run that was stopped goes on there.
        report: called with the share that is done and a line about it.
        **options: of `efface.api.attack.attack`.

    Raises:
        UsageError: no round, or a kind of erasure that nothing can be added to.
        EffaceError: the attack is broken, or found embeddings where prompts are needed.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}; expected at least 1.")
    if not isinstance(erasure, TextMap | ActivationEdit):
        raise UsageError(
            f"an erasure of kind {erasure.kind!r} cannot be hardened; expected a text map or activation edit."
        )
    meant = concept_of(concept, [erasure], pipeline)
    model, profile = Model(pipeline), profile_of(pipeline)
    current, known = erasure, None
    made: list[tuple[Erasure, Stage, Findings]] = []
    hits: list[Found] = []
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds + 1):
            place = Path(folder or scratch) / f"round-{number}"

            def told(done: float, line: str, number: int = number) -> None:
                report((number + done) / (rounds + 1), f"round {number}: {line}")

            found = attack(pipeline, current, meant, folder=place, report=told, known_sanity=known, **options)
            known = found.sanity
            if known is not None and known.broken:
                raise EffaceError(f"the attack cannot be learnt from; it is {known.verdict}.")
            others = profile.retained_rate(model, current, meant)
            stage = Stage(found.without, found.asr, found.because, others, found.cost.seconds)
            made.append((current, stage, found))
            new = [t for t in found.tries if t.looks and t.after.shown]
            if not new or number == rounds:
                break
            hits, candidates = [*hits, *new], [*candidates, *candidates_of(Book(place, None), new)]
            current = added(model, erasure, meant, hits, candidates, pictures, number + 1)
    return _kept(made, most_lost)


def _kept(made: Sequence[tuple[Erasure, Stage, Findings]], most_lost: float) -> Hardened:
    """The best of what was made, with the story of it in its notes."""
    stages = tuple(stage for _, stage, _ in made)
    kept = best(stages, most_lost)
    hardened, _, findings = made[kept]
    rates = [s.asr.value for s in stages]
    notes = hardened.provenance.notes | {"hardened": {"attack": findings.attack, "asr": rates, "kept": kept}}
    hardened = replace(hardened, provenance=replace(hardened.provenance, notes=notes))
    return Hardened(hardened, stages, kept, findings)


def best(stages: Sequence[Stage], most_lost: float) -> int:
    """The first stage of the lowest ASR among those that cost the other concepts at most so much."""
    first = stages[0].others or 0.0
    allowed = [n for n, s in enumerate(stages) if s.others is None or first - s.others <= most_lost]
    return min(allowed, key=lambda n: stages[n].asr.value)


def added(
    model: Model,
    erasure: Erasure,
    concept: Concept,
    hits: Sequence[Found],
    candidates: Sequence[Candidate],
    pictures: int,
    rounds: int,
) -> Erasure:
    """The erasure with what so many rounds of attacks found added to it, by its own method."""
    evidence = Evidence(
        concept=concept,
        text=text_of(model, candidates),
        prompts=tuple(hit.text for hit in hits),
        anchors=tuple(concept.anchor_of(hit.prompt) for hit in hits),
        images=pictures,
        rounds=rounds,
    )
    return method_module(erasure.provenance.method).extend(model, erasure, evidence)
