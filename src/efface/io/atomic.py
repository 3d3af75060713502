"""Files that are whole or not there: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from efface.errors import EffaceError, system_reason


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a temporary name beside `path`, flush them to disk, and rename."""
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, whose file takes its place once it is written and flushed to disk.

    Raises:
        EffaceError: the system refuses; nothing was changed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise EffaceError(
            f"{path} could not be written ({system_reason(error)}): nothing was changed; choose another place."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
