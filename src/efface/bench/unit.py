"""A unit of work: one fixed micro-batch of pictures, named by the hash of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efface.io.digest import sha256_of_file


@dataclass(frozen=True)
class Setting:
    """What the units of a run have in common."""

    base: str
    """Hash of the model's fingerprint."""
    dtype: str
    """Precision of the denoiser."""
    scheduler: str
    """Class and configuration of the scheduler, hashed."""
    steps: int
    guidance: float
    side: int | tuple[int, int] | None
    """Pixels of each side, or width and height; None is the model's own size."""
    negative: str | None
    judges: tuple[str, ...]
    """Name and version of every judge."""
    threads: int
    """Threads of torch: another number may round otherwise."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Setting:
        """The setting of a plain dictionary."""
        side = data["side"]
        fields: dict[str, Any] = data | {
            "judges": tuple(data["judges"]),
            "side": tuple(side) if isinstance(side, list) else side,
        }
        return cls(**fields)


@dataclass(frozen=True)
class Unit:
    """Pictures that are always drawn together, so that rounding is the same whatever runs beside them."""

    setting: Setting
    erasures: tuple[str, ...]
    """sha256 of every erasure file, in the order in which they are attached; none for the unerased model."""
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    guidances: tuple[float, ...] = ()
    """One a picture where prompts bring their own (I2P)."""

    @property
    def key(self) -> str:
        """sha256 over all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """The unit that `to_json` wrote, also after JSON made lists of its tuples."""
        fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in data.items()}
        fields["setting"] = Setting.from_json(data["setting"])
        return cls(**fields)


def units_of(
    setting: Setting, erasures: Sequence[str], work: Iterable[tuple[str, int]], *, batch: int = 16
) -> list[Unit]:
    """Cut (prompt, seed) pairs into units of `batch` pictures, in order: the same work always gives the same units."""
    pairs = list(work)
    return [
        Unit(setting, tuple(erasures), tuple(p for p, _ in chunk), tuple(s for _, s in chunk))
        for chunk in (pairs[i : i + batch] for i in range(0, len(pairs), batch))
    ]


def sha256_of(path: Path) -> str:
    """The name of an erasure in units: sha256 of its file; raises EffaceError where it cannot be read."""
    return sha256_of_file(path, expected="an erasure's .safetensors file")
