"""Run an attack: choose its tries, take one case after the other, and keep the findings on disk as they grow."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efface.attacks import attack_module
from efface.attacks.base import Case
from efface.concepts.concept import Concept
from efface.erasures.switch import Target, staying
from efface.judges.base import Judge
from efface.judges.criterion import eye_of
from efface.redteam.findings import Findings, Found, Sanity
from efface.redteam.samples import Chosen, Plan, chosen_tries
from efface.redteam.search import CaseRun
from efface.redteam.store import Book, digest

Report = Callable[[float, str], None]
"""Called with the share that is done, and a line about it."""


@dataclass(frozen=True)
class Setup:
    """Everything that determines what an attack finds."""

    name: str
    """Of the attack."""
    original: Target
    erased: Target
    concept: Concept
    config: Any
    """The attack's Config."""
    judge: Judge
    plan: Plan

    def identity(self) -> dict[str, Any]:
        """All of it, as JSON can say it."""
        from efface.models.fingerprint import fingerprint

        bases = [fingerprint(target.model).to_json() for target in (self.original, self.erased)]
        said = {"attack": self.name, "config": asdict(self.config), "concept": asdict(self.concept)}
        said |= {"judge": self.judge.name, "plan": asdict(self.plan), "models": bases, "erasures": self.erasures()}
        return json.loads(json.dumps(said, default=str))

    def erasures(self) -> list[dict[str, Any]]:
        """Which erasures are attacked."""
        return [
            {
                "method": erasure.provenance.method,
                "concepts": [concept.name for concept in erasure.provenance.concepts],
                "sha256": digest(erasure.tensors()),
            }
            for erasure in self.erased.erasures
        ]


def open_book(setup: Setup, folder: Path | None) -> Book:
    """The book of exactly this attack: in a folder, which is gone on with, or in memory."""
    return Book(folder, setup.identity())


def run(
    setup: Setup, book: Book, *, sanity: Sanity | None = None, report: Report = lambda done, line: None
) -> Findings:
    """Attack every try of a plan, going on where the book stops; the findings are on disk after every judged round.

    Raises:
        UsageError: the judge does not know the concept, or an option does not fit the model.
        EffaceError: the original model shows the concept in none of the plan's pictures.
    """
    with staying():
        eye, plan = eye_of(setup.judge, setup.concept), setup.plan
        chosen = chosen_tries(setup.original, setup.erased, setup.concept, eye, plan, book)
        found = {n: Found(n, *t, chosen.before[n], chosen.before[n]) for n, t in enumerate(chosen.tries)}
        attacked = [n for n in found if plan.every or not chosen.before[n].shown]
        finished = set(found) - set(attacked)
        whole = getattr(attack_module(setup.name), "SCOPE", "try") == "concept"
        size = max(1, len(attacked) if whole else plan.together)
        groups = [attacked[i : i + size] for i in range(0, len(attacked), size)]
        for number, members in enumerate(groups):
            case = _case(setup, chosen, members)
            work = CaseRun(setup.name, setup.config, case, [found[n] for n in members], eye, book, f"case-{number:03}")
            with closing(work.rounds()) as rounds:
                for done in rounds:
                    found.update(zip(members, work.found, strict=True))
                    hits = sum(t.after.shown and not t.before.shown for t in found.values())
                    seen = [n for n, t in found.items() if n in finished or t.looks]
                    searching = len(set(seen) - finished)
                    _written(setup, book, sanity, chosen, [found[n] for n in seen], searching)
                    line = f"{len(finished)} of {len(found)} tries done, {hits} brought back"
                    report((number + done) / len(groups), line)
            found.update(zip(members, work.found, strict=True))
            finished |= set(members)
        report(1.0, f"{len(finished)} of {len(found)} tries done")
        return _written(setup, book, sanity, chosen, list(found.values()))


def _case(setup: Setup, chosen: Chosen, members: list[int]) -> Case:
    """Some of the tries, to be attacked side by side."""
    tries = tuple(chosen.tries[n] for n in members)
    where = (setup.original, setup.erased, setup.concept)
    return Case(*where, tries, chosen.latents[members], setup.plan.settings, setup.config.seed)


def _written(
    setup: Setup, book: Book, sanity: Sanity | None, chosen: Chosen, tries: list[Found], searching: int = 0
) -> Findings:
    """The findings as they stand, on disk too."""
    strongest = sorted(tries, key=lambda t: (not t.after.shown, t.before.shown, -t.after.score))
    said = book.identity or setup.identity()
    findings = Findings(
        setup.name, said["config"], setup.concept.name, tuple(said["erasures"]), setup.judge.name,
        dict(setup.plan.settings), tuple(strongest), chosen.dropped, len(chosen.tries), searching,
        "every" if setup.plan.every else "concept", sanity,
    )  # fmt: skip
    if book.folder is not None:
        findings.save(book.folder / "findings.json")
    return findings
