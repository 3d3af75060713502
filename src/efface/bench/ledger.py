"""The ledger: results of units in one SQLite file that survives anything, with one writer."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efface.bench.unit import Unit
from efface.errors import EffaceError

FORMAT = 1
"""Version of the file's tables; a reader refuses newer ones."""


class Ledger:
    """Results by the key of their unit.

    A unit is written in one transaction and flushed to disk before `record` returns: after a kill, a full disk or a power
    cut it is there whole or not at all.

    Args:
        path: of the SQLite file; made if missing.

    Raises:
        EffaceError: the file is no ledger, or of a newer format.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
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
        except sqlite3.Error as error:
            raise EffaceError(f"{path} could not be opened as a ledger ({error}): name another run folder.") from error

    def record(self, unit: Unit, result: list[dict[str, Any]], seconds: float) -> None:
        """Write the result of a unit; a second one for the same unit changes nothing.

        Raises:
            EffaceError: the disk is full or the file cannot be written; what was recorded before stays.
        """
        row = (unit.key, json.dumps(unit.to_json()), json.dumps(result), seconds, time.time())
        try:
            self.connection.execute("INSERT OR IGNORE INTO units VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise EffaceError(
                f"{self.path} could not be written ({error}): everything recorded so far is kept; make room and start again."
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

    def seconds(self, units: Iterable[Unit]) -> float:
        """Time spent on units."""
        known = dict(self.connection.execute("SELECT key, seconds FROM units"))
        return sum(known.get(unit.key, 0.0) for unit in units)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()
