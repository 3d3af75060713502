"""Several attacks on one erased model, each in a folder of its own, with pictures of what they brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.api.attack import attack
from efface.attacks import SEARCHES, configured
from efface.errors import EffaceError, UsageError
from efface.redteam.run import Report
from efface.redteam.store import Book
from efface.report.card_attacks import Captioned

if TYPE_CHECKING:
    from efface.concepts.concept import Concept
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.redteam.findings import Findings, Sanity

MOST = 4
"""Tries whose pictures are kept, the strongest first."""


class Strip(NamedTuple):
    """One try in pictures."""

    caption: str
    original: Any
    erased: Any
    attacked: Any
    """None where the try was not attacked, since its own prompt still draws the concept."""

    def captioned(self) -> Captioned:
        """The pictures that there are, for a page."""
        return Captioned(self.caption, [p for p in (self.original, self.erased, self.attacked) if p is not None])


class Attacked(NamedTuple):
    """What one attack on one concept came to."""

    attack: str
    concept: str
    findings: Findings | None
    """None where the attack could not be run."""
    why: str = ""
    """Why it could not."""
    strips: tuple[Strip, ...] = ()

    @property
    def line(self) -> str:
        """A sentence."""
        if self.findings is None:
            return f"not run: {self.why}"
        broken = " (the attack is broken: this says nothing)" if self.findings.broken else ""
        return f"brings {self.concept} back in {self.findings.because}, ASR {self.findings.asr}{broken}"

    def to_json(self) -> dict[str, Any]:
        """The findings, or why there are none; without pictures."""
        said = {"attack": self.attack, "concept": self.concept}
        return self.findings.to_json() if self.findings else said | {"why": self.why}


@dataclass(frozen=True)
class RedTeam:
    """Which attacks are run, and how far each goes."""

    attacks: tuple[str, ...]
    """Names, or `all` for all but the audit of a whole checkpoint, which attacks no erasure."""
    budget: str = "published"
    tries: int = 8
    """Prompts and seeds that each attack is given."""
    sanity_tries: int = 2

    def __post_init__(self) -> None:
        for name in self.names:
            configured(name, self.budget)
        if self.tries < 1:
            raise UsageError(f"tries is {self.tries}; expected at least 1.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attacks, each once."""
        return SEARCHES if "all" in self.attacks else tuple(dict.fromkeys(self.attacks))

    def run(
        self,
        pipeline: Any,
        erasures: Sequence[Erasure],
        concept: Concept | str,
        folder: Path,
        *,
        judge: Judge | None = None,
        known: dict[tuple[str, str], Sanity] | None = None,
        report: Report = lambda done, line: None,
        **drawing: Any,
    ) -> list[Attacked]:
        """Attack one concept of one erased model; an attack that was stopped goes on in `folder / its name`.

        Args:
            pipeline: the model, with nothing attached.
            erasures: attached while it is attacked.
            concept: what is to come back.
            folder: of everything that is found.
            judge: says whether a picture shows the concept; the canvas's own on the emoji canvas.
            known: which attacks are sound on which concept, by their names; it gets what is found here.
            report: called with the share that is done and a line about it.
            **drawing: `draw_steps` and `guidance` of every picture.

        Raises:
            UsageError: an attack does not fit the model, or the judge does not know the concept.
        """
        known, found = {} if known is None else known, []
        name = concept if isinstance(concept, str) else concept.name
        for number, method in enumerate(self.names):
            try:
                findings = attack(
                    pipeline, erasures, concept, method=method, budget=self.budget, judge=judge, tries=self.tries,
                    sanity_tries=self.sanity_tries, known_sanity=known.get((method, name)), folder=folder / method,
                    report=lambda done, line, n=number, m=method: report((n + done) / len(self.names), f"{m}: {line}"),
                    **drawing,
                )  # fmt: skip
            except UsageError:
                raise
            except EffaceError as error:
                # One attack that has nothing to attack must not cost the others' findings.
                found.append(Attacked(method, name, None, str(error)))
                continue
            if findings.sanity:
                known[method, name] = findings.sanity
            found.append(Attacked(method, name, findings, strips=strips(findings, folder / method)))
        return found


def strips(findings: Findings, folder: Path) -> tuple[Strip, ...]:
    """Pictures of the strongest tries, from an attack's folder."""
    book = Book(folder, None)
    return tuple(
        Strip(t.caption, *(book.picture(f"{t.number:03}-{kind}") for kind in ("original", "erased", "attacked")))
        for t in findings.tries[:MOST]
    )
