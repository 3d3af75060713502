"""Where the units of a run are computed: in this process, or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from efface.errors import UsageError
from efface.io.progress import Progress, silent

if TYPE_CHECKING:
    from efface.bench.ledger import Ledger
    from efface.bench.unit import Unit
    from efface.bench.worker_spec import WorkerSpec
    from efface.io.progress import Progress, silent
    from efface.models.model import Model


@dataclass(frozen=True)
class Engine:
    """Options that every protocol's command has."""

    engine: Literal["process", "ray"] = "process"
    """`process`: this one; `ray`: actors of the cluster at RAY_ADDRESS, or of one started here for the run (extra `ray`)."""
    workers: int = 2
    """Actors of the engine `ray`, each with a pipeline of its own and as many threads as this process (OMP_NUM_THREADS)."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"workers is {self.workers}; expected at least 1.")

    @property
    def devices(self) -> int:
        """How many pipelines draw at a time."""
        return self.workers if self.engine == "ray" else 1


def run_on(
    engine: Engine,
    spec: WorkerSpec,
    units: Sequence[Unit],
    ledger: Ledger,
    progress: Progress = silent,
    *,
    model: Model,
) -> int:
    """Do every unit that has no result yet; returns how many were done. The results are the same on every engine.

    Args:
        engine: where.
        spec: how a worker is made.
        units: what is to be done.
        ledger: written by this process alone.
        progress: told the share of units that is done, and a line about it.
        model: the spec's, loaded in this process.

    Raises:
        EffaceError: a unit cannot be computed or recorded.
    """
    if engine.engine == "ray":
        from efface.bench import ray_engine

        return ray_engine.run(spec, units, ledger, progress, workers=engine.workers)
    from efface.bench.engine import run

    return run(spec.worker(model), units, ledger, progress)
