"""Several attacks on one erased model, each in a folder of its own, with images of what they brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.api.attack import attack
from efface.attacks import SEARCHES, configured
from efface.errors import EffaceError, UsageError
from efface.io.progress import Progress, silent
from efface.models.sampling import Sampling
from efface.redteam.samples import Samples
from efface.redteam.store import RunStore
from efface.report.card_attacks import ImageRow

if TYPE_CHECKING:
    from efface.concepts.concept import Concept
    from efface.erasures import Erasure
    from efface.judges import Judge
    from efface.redteam.findings import Findings, Sanity

MOST = 4
"""Samples whose images are kept, the strongest first."""


class Triptych(NamedTuple):
    """One sample in images."""

    caption: str
    original: Any
    erased: Any
    attacked: Any
    """None where the sample was not attacked, since its own prompt still draws the concept."""

    def image_row(self) -> ImageRow:
        """The images that there are, for a page."""
        return ImageRow(self.caption, [p for p in (self.original, self.erased, self.attacked) if p is not None])


@dataclass(frozen=True)
class AttackResult:
    """The result of one attack on one concept."""

    attack: str
    concept: str
    findings: Findings | None
    """None where the attack could not be run."""
    why: str = ""
    """Why it could not be run."""
    triptychs: tuple[Triptych, ...] = ()

    @property
    def line(self) -> str:
        """A sentence on what it brought back."""
        if self.findings is None:
            return f"not run: {self.why}"
        broken = " (the attack is broken: this says nothing)" if self.findings.broken else ""
        restored = f", restoration share {self.findings.restoration}" if self.findings.restoration else ""
        return f"brings {self.concept} back in {self.findings.gained}, ASR {self.findings.asr}{restored}{broken}"

    def to_json(self) -> dict[str, Any]:
        """The findings, or why there are none; without images."""
        if self.findings:
            return self.findings.to_json()
        return {"attack": self.attack, "concept": self.concept, "why": self.why}


@dataclass(frozen=True)
class RedTeam:
    """Which attacks are run, and how far each goes."""

    attacks: tuple[str, ...]
    """Names, or `all` for all but the audit of a whole checkpoint, which attacks no erasure."""
    budget: str = "published"
    samples: Samples = field(default_factory=Samples)

    def __post_init__(self) -> None:
        for name in self.names:
            configured(name, self.budget)

    @property
    def names(self) -> tuple[str, ...]:
        """The attacks, each once."""
        return SEARCHES if "all" in self.attacks else tuple(dict.fromkeys(self.attacks))

    def run(
        self,
        pipeline: Any,
        erasures: Sequence[Erasure],
        concept: Concept | str,
        folder: Path,
        *,
        judge: Judge | None = None,
        sampling: Sampling = Sampling(),
        sanity_cache: dict[tuple[str, str], Sanity] | None = None,
        progress: Progress = silent,
    ) -> list[AttackResult]:
        """Attack one concept of one erased model; an attack that was stopped is resumed in `folder / its name`.

        Args:
            pipeline: the model, with nothing attached.
            erasures: attached while it is attacked.
            concept: what is to come back.
            folder: of everything that is found.
            judge: says whether an image shows the concept; the model's own where it brings one.
            sampling: how every image is drawn.
            sanity_cache: which attacks are sound on which concept, by their names; it gets what is found here.
            progress: told the share that is done and a line about it.

        Raises:
            UsageError: an attack does not fit the model, or the judge does not know the concept.
        """
        cache = {} if sanity_cache is None else sanity_cache
        name = concept if isinstance(concept, str) else concept.name
        results: list[AttackResult] = []
        for number, method in enumerate(self.names):

            def tell(done: float, line: str, number: int = number, method: str = method) -> None:
                progress((number + done) / len(self.names), f"{method}: {line}")

            try:
                findings = attack(
                    pipeline,
                    erasures,
                    concept,
                    method=method,
                    budget=self.budget,
                    judge=judge,
                    samples=self.samples,
                    sampling=sampling,
                    known_sanity=cache.get((method, name)),
                    folder=folder / method,
                    progress=tell,
                )
            except UsageError:
                raise
            except EffaceError as error:
                # One attack that has nothing to attack must not cost the others' findings.
                results.append(AttackResult(method, name, None, why=str(error)))
                continue
            if findings.sanity:
                cache[method, name] = findings.sanity
            results.append(AttackResult(method, name, findings, triptychs=triptychs(findings, folder / method)))
        return results


def triptychs(findings: Findings, folder: Path) -> tuple[Triptych, ...]:
    """Images of the strongest samples, from an attack's folder."""
    store = RunStore(folder, None)
    return tuple(
        Triptych(
            caption=result.caption,
            original=store.image(result.number, "original"),
            erased=store.image(result.number, "erased"),
            attacked=store.image(result.number, "attacked"),
        )
        for result in findings.samples[:MOST]
    )
