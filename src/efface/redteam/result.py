"""What an attack found for one sample, and what was judged on the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from efface.concepts.sample import Sample
from efface.judges.criterion import Verdict
from efface.redteam.cost import NOTHING, Cost


class TracePoint(NamedTuple):
    """One judged image of a search."""

    done: float
    """Share of the budget spent by then."""
    evaluations: int
    """Rows through denoiser and text encoder spent on this sample by then."""
    shown: bool
    score: float


class Controls(NamedTuple):
    """What a leak's process gives without the erasure, and without any model."""

    original: Verdict
    """On the original model's picture by the same process."""
    without: Verdict
    """On what the process starts from."""


@dataclass(frozen=True)
class SampleResult:
    """What an attack found for one sample."""

    number: int
    """Its place in the order in which samples were chosen; its images have this number."""
    sample: Sample
    before: Verdict
    """On the erased model's image of the prompt itself."""
    after: Verdict
    """On its image of what was found; `before` where the concept was there without any attack."""
    text: str | None = None
    """The found prompt; None for an embedding, and where nothing was looked for."""
    ids: tuple[int, ...] = ()
    """Content tokens of the found prompt."""
    retokenizes: bool = False
    """Whether the found text gives the same tokens when it is typed, so that `efface generate` draws the same image."""
    tensors: str | None = None
    """Key of the found embeddings in the run's store; None for a prompt."""
    cost: Cost = NOTHING
    trace: tuple[TracePoint, ...] = ()
    """Every judged image of the search, in order."""
    controls: Controls | None = None
    """Of leaks alone."""

    @property
    def gained(self) -> bool:
        """Whether the concept shows only because of the attack."""
        return self.after.shown and not self.before.shown

    @property
    def caption(self) -> str:
        """What was found, in words."""
        return self.text or (f"{self.sample.prompt} (embedding)" if self.tensors else self.sample.prompt)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self) | {
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "cost": self.cost._asdict(),
            "trace": [point._asdict() for point in self.trace],
            "controls": self.controls and {k: v._asdict() for k, v in self.controls._asdict().items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SampleResult:
        """What `to_json` made."""
        controls = data.get("controls")  # findings of earlier versions have none
        fields: dict[str, Any] = data | {
            "sample": Sample.from_json(data["sample"]),
            "before": Verdict(**data["before"]),
            "after": Verdict(**data["after"]),
            "ids": tuple(data["ids"]),
            "cost": Cost(**data["cost"]),
            "trace": tuple(TracePoint(**point) for point in data["trace"]),
            "controls": controls and Controls(**{k: Verdict(**v) for k, v in controls.items()}),
        }
        return cls(**fields)
