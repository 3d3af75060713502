"""Where the models in this package lie, and what their `efface.json` says: name, sampling, dtype, fingerprint."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from efface.errors import EffaceError

ROOT = Path(__file__).parents[1] / "embedded"
"""One diffusers folder a model."""
METADATA = "efface.json"
"""Name of the file in a model's folder that holds its metadata."""
FIGURES = "judges.json"
"""Name of the file in the folder of a model's judges that says what they are."""
LIMIT = 1 << 20
"""Largest metadata file that is read, in bytes."""


class Sampling(TypedDict):
    """How a model's standard solver draws."""

    steps: int
    guidance: float


@lru_cache
def names() -> tuple[str, ...]:
    """The embedded models."""
    return tuple(sorted(path.parent.name for path in ROOT.glob(f"*/{METADATA}")))


def folder(name: str) -> Path:
    """The diffusers folder of an embedded model."""
    return ROOT / name


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What the `efface.json` of a folder says; None where there is none that is an object.

    Raises:
        EffaceError: the file is damaged.
    """
    file = path / METADATA
    if not file.is_file() or file.stat().st_size > LIMIT:
        return None
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise EffaceError(f"{file} is damaged ({error}): fetch another copy of the model, or remove it.") from error
    return data if isinstance(data, dict) else None


def sampling(name: str) -> Sampling:
    """Steps and guidance of an embedded model's standard solver."""
    data = read_metadata(folder(name)) or {}
    return {"steps": data["steps"], "guidance": data["guidance"]}


def judges() -> dict[str, tuple[str, str]]:
    """Short name of every embedded judge -> its model, and which of that model's judges it is."""
    return {
        figures["name"]: (model, what)
        for model in names()
        if (folder(model) / "judges" / FIGURES).is_file()
        for what, figures in judge_figures(folder(model) / "judges").items()
    }


def judge_figures(judges: Path) -> dict[str, dict[str, Any]]:
    """What the judges of a folder are: which -> name, version, threshold, classes."""
    return json.loads((judges / FIGURES).read_text())
