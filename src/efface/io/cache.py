"""The folder in which figures of a model are kept between runs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from efface.errors import EffaceError
from efface.io.atomic import write_atomically


def cache_folder() -> Path:
    """$EFFACE_CACHE, or `efface` in the user's cache folder."""
    return Path(
        os.environ.get("EFFACE_CACHE", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "efface")
    ).expanduser()


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache; one that cannot be written costs time, nothing else."""
    with suppress(EffaceError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
