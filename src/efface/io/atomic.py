"""Files that are whole or not there: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from efface.errors import EffaceError, system_reason


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a temporary name beside `path`, flush them to disk, and rename."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise EffaceError(
            f"{path} could not be written ({system_reason(error)}): nothing was changed; choose another place."
        ) from error
