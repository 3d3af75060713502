"""The ledger: results of units in one SQLite file that survives anything, with one writer."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from efface.bench.unit import Unit
from efface.errors import EffaceError
from efface.io.atomic import write_atomically

FORMAT = 1
"""Version of the file's tables; a reader refuses newer ones."""


class Ledger:
    """Results by the key of their unit.

    A unit is written in one transaction and flushed to disk before `record` returns: after a kill, a full disk or a power
    cut it is there whole or not at all.

    Args:
        path: of the SQLite file; made if missing.
        sheets: folder for the pictures, one PNG a unit; None keeps verdicts alone.

    Raises:
        EffaceError: the file is no ledger, or of a newer format, or there is no room for it.
    """

    def __init__(self, path: Path, sheets: Path | None = None):
        self.path = path
        self.sheets = sheets
        try:
            for folder in filter(None, (path.parent, sheets)):
                folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            version = self.connection.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise EffaceError(f"{path} has format {version}, this efface reads up to {FORMAT}: update efface.")
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, unit TEXT NOT NULL, result TEXT NOT NULL, "
                "seconds REAL NOT NULL, finished REAL NOT NULL) WITHOUT ROWID"
            )
            self.connection.execute(f"PRAGMA user_version = {FORMAT}")
        except (sqlite3.Error, OSError) as error:
            raise EffaceError(
                f"{path} could not be opened as a ledger ({error}): make room if the disk is full, or name another run folder."
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that writes; the system lets go of it when this one ends, however it ends.

        Raises:
            EffaceError: another process is writing.
        """
        try:
            import fcntl
        except ImportError:  # Windows, where nobody else is kept out
            yield
            return
        with ExitStack() as stack:
            try:
                # Not the SQLite file itself: closing any handle of it would drop SQLite's own locks.
                file = stack.enter_context(self.path.with_name(f"{self.path.name}.lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise EffaceError(
                    f"another process is writing to {self.path}: wait for its end, or name another run folder."
                ) from error
            except OSError as error:
                raise EffaceError(
                    f"{self.path} could not be locked ({error.strerror}): make room and start again."
                ) from error
            yield

    def record(self, unit: Unit, result: list[dict[str, Any]], seconds: float, sheet: bytes | None = None) -> None:
        """Write the result of a unit; a second one for the same unit changes nothing.

        Args:
            unit: what was drawn.
            result: one entry a picture.
            seconds: that drawing took.
            sheet: the pictures as a PNG, written before the result.

        Raises:
            EffaceError: the disk is full or a file cannot be written; what was recorded before stays.
        """
        row = (unit.key, json.dumps(unit.to_json()), json.dumps(result), seconds, time.time())
        try:
            if sheet is not None and self.sheets is not None:
                write_atomically(self.sheets / f"{unit.key[:16]}.png", sheet)
            self.connection.execute("INSERT OR IGNORE INTO units VALUES (?, ?, ?, ?, ?)", row)
        except (sqlite3.Error, EffaceError) as error:
            reason = error.__cause__ or error  # the system's own words where a sheet could not be written
            raise EffaceError(
                f"{self.path} could not be written ({reason}): everything recorded so far is kept; make room and start again."
            ) from error

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Those without a result, in order and each once."""
        wanted = {unit.key: unit for unit in units}
        known = {key for (key,) in self.connection.execute("SELECT key FROM units")}
        return [unit for key, unit in wanted.items() if key not in known]

    def result(self, unit: Unit) -> list[dict[str, Any]]:
        """What was recorded for a unit, one entry a picture; raises EffaceError where nothing was."""
        row = self.connection.execute("SELECT result FROM units WHERE key = ?", (unit.key,)).fetchone()
        if row is None:
            raise EffaceError(
                f"{self.path} has no result of the unit {unit.key[:12]}…: run the protocol to its end first."
            )
        return json.loads(row[0])

    def pictures(self) -> int:
        """How many pictures were recorded."""
        return sum(len(json.loads(text)["prompts"]) for (text,) in self.connection.execute("SELECT unit FROM units"))

    def unerased(self) -> list[Unit]:
        """Every recorded unit of the unerased model: which pictures the run is about, and how they were drawn."""
        units = (json.loads(text) for (text,) in self.connection.execute("SELECT unit FROM units"))
        return [Unit.from_json(data) for data in units if not data["erasures"]]

    def seconds(self, units: Iterable[Unit]) -> float:
        """Time spent on units."""
        known = dict(self.connection.execute("SELECT key, seconds FROM units"))
        return sum(known.get(unit.key, 0.0) for unit in units)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        with suppress(sqlite3.Error):  # on a full disk the log stays beside the file, and is read with it
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()
