"""Run units on Ray: actors that keep their pipeline draw and judge; this process alone hands out units and writes.

Ray's own restarts are not used: a unit whose actor died is put back, a new actor takes the place of the dead one, and a
unit that kills its actors again and again ends the run with a sentence.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from efface.bench.ledger import Ledger
from efface.bench.queue import Queue
from efface.bench.ray_actor import Actor, UnitResult
from efface.bench.unit import Unit
from efface.bench.worker_spec import WorkerSpec
from efface.errors import EffaceError, UsageError
from efface.io.progress import Progress, silent

IN_FLIGHT = 2
"""Units that an actor holds: one is drawn while the other is judged."""
ATTEMPTS = 3
"""Actors that may die over one unit, or while they load their pipeline."""
STARTS = 2
"""Attempts at starting a cluster here; Ray gives its parts 30 seconds, too few for a machine that is busy for a moment."""
KNOCK = 10.0
"""Seconds that the cluster at RAY_ADDRESS may take to answer."""
STORE = 256 * 2**20
"""Bytes of shared memory of a cluster that is started here; Ray asks for 80 MB at least and spills to disk beyond."""


def run(
    spec: WorkerSpec,
    units: Sequence[Unit],
    ledger: Ledger,
    progress: Progress = silent,
    *,
    workers: int = 2,
) -> int:
    """Do every unit that has no result yet; returns how many were done.

    Units of the unerased model are done before all others, since measures may compare with its pictures.

    Args:
        spec: of every actor.
        units: what is to be done.
        ledger: written by this process alone.
        progress: told the share of units that is done, and a line about it.
        workers: number of actors.

    Raises:
        UsageError: Ray is not installed, or an erasure is missing.
        EffaceError: no cluster answers, a unit fails, or its actors die.
    """
    missing = ledger.missing(units)
    if missing:
        with ledger.writing(), cluster(workers):
            pool = ActorPool(spec, ledger, progress, missing, min(workers, len(missing)))
            try:
                pool.work([unit for unit in missing if not unit.erasures])
                pool.work([unit for unit in missing if unit.erasures])
            finally:
                pool.stop()
    progress(1.0, f"{len(missing)} of {len(missing)} units")
    return len(missing)


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """Ray as it already runs in this process, or the cluster at RAY_ADDRESS, or one that lives as long as the context."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    # Logical processors: the machine's own may be fewer than the actors that are asked for.
    here = {"address": "local", "num_cpus": workers, "object_store_memory": STORE, "include_dashboard": False}
    for attempt in range(STARTS):
        try:
            if address:
                _knock(address)
            ray.init(**({"address": address} if address else here), **quiet)
            break
        except Exception as error:  # Ray raises a bare one when a busy machine is slow to start it
            ray.shutdown()
            if address or attempt == STARTS - 1:
                where = f"answers at RAY_ADDRESS={address}" if address else "could be started here"
                raise EffaceError(f"no Ray cluster {where} ({_first_line(error)}): use --engine process.") from error
    try:
        yield
    finally:
        ray.shutdown()


class ActorPool:
    """Actors, what each has in hand, and who takes a dead one's place.

    Args:
        spec: of every actor.
        ledger: where results go.
        progress: told the share of units that is done, and a line about it.
        missing: all units of the run; the first says the setting.
        workers: number of actors.
    """

    def __init__(self, spec: WorkerSpec, ledger: Ledger, progress: Progress, missing: Sequence[Unit], workers: int):
        self.ray = _ray()
        self.spec = spec
        self.ledger = ledger
        self.progress = progress
        self.setting = missing[0].setting
        self.total = len(missing)
        self.done = 0
        self.files: dict[str, Any] = {}
        self.deaths: Counter[str] = Counter()
        self.actors: dict[int, Any] = {}
        self.flight: dict[Any, tuple[int, Any, Unit | None]] = {}
        graphics = self.ray.cluster_resources().get("GPU", 0)
        self.kind = self.ray.remote(Actor).options(
            num_cpus=1, num_gpus=min(1, graphics / workers) if graphics else 0, max_concurrency=IN_FLIGHT
        )
        for number in range(workers):
            self._start(number)

    def work(self, units: Sequence[Unit]) -> None:
        """Do units to the end."""
        queue = Queue(units)
        while queue or any(unit is not None for _, _, unit in self.flight.values()):
            self._hand_out(queue)
            ready, _ = self.ray.wait(list(self.flight), num_returns=1)
            for reference in ready:
                self._settle(reference, queue)

    def stop(self) -> None:
        """End every actor."""
        for actor in self.actors.values():
            self.ray.kill(actor)

    def _start(self, number: int) -> None:
        """A new actor, which is given no unit before it has loaded its pipeline (on a busy cluster that may be never)."""
        self.actors[number] = actor = self.kind.remote(self.spec.pipeline, self.spec.observers, self.spec.loading)
        self.flight[actor.load.remote(self.setting)] = (number, actor, None)

    def _hand_out(self, queue: Queue) -> None:
        """Give every actor that is ready units, one round after the other, so that the last ones are spread."""
        for held in range(1, IN_FLIGHT + 1):
            for number, actor in self.actors.items():
                holding = [unit for n, _, unit in self.flight.values() if n == number]
                if len(holding) < held and None not in holding and (unit := queue.take(number)):
                    files = {name: self._file(name) for name in unit.erasures}
                    reference = actor.do.remote(unit, files, self.ledger.sheets is not None)
                    self.flight[reference] = (number, actor, unit)

    def _file(self, name: str) -> Any:
        """Reference to the bytes of an erasure's file, which every machine fetches once."""
        if name not in self.files:
            if name not in self.spec.erasures:
                raise UsageError(f"the erasure {name[:12]}… of a unit was not given to this run: name its file.")
            self.files[name] = self.ray.put(self.spec.erasures[name].read_bytes())
        return self.files[name]

    def _settle(self, reference: Any, queue: Queue) -> None:
        """Record what an actor has done, or let another one do it."""
        number, actor, unit = self.flight.pop(reference)
        try:
            result: UnitResult | None = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EffaceError):
                raise error.cause from None
            raise EffaceError(f"an actor failed ({_first_line(error.cause)}): nothing recorded is lost.") from error
        except self.ray.exceptions.RayError as error:
            self._replace(number, actor, unit, queue, error)
            return
        if unit is not None and result is not None:
            self.ledger.record(unit, result.entries, result.seconds, result.sheet)
            self.done += 1
            self.progress(self.done / self.total, f"{self.done} of {self.total} units")

    def _replace(self, number: int, actor: Any, unit: Unit | None, queue: Queue, error: Exception) -> None:
        """Put a dead actor's unit back, and start another in its place unless that was done for its other unit."""
        name = unit.key if unit else "load"
        self.deaths[name] += 1
        if self.deaths[name] >= ATTEMPTS:
            what = "over one unit" if unit else "while they loaded their pipeline"
            raise EffaceError(
                f"{ATTEMPTS} actors died {what} ({_last_line(error)}): use fewer workers if memory is short."
            ) from error
        if unit is not None:
            queue.put_back(unit)
        if self.actors[number] is actor:
            queue.leave(number)
            self._start(number)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("the engine ray needs Ray: install it with pip install 'efface[ray]'.") from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at "host:port"; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK).close()


def _first_line(error: object) -> str:
    return _line(error, 0)


def _last_line(error: object) -> str:
    """Where Ray says what became of an actor."""
    return _line(error, -1)


def _line(error: object, which: int) -> str:
    lines = str(error).strip().splitlines()
    return lines[which][:200].strip(".: ") if lines else type(error).__name__
