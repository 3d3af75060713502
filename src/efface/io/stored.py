"""Tensors that stay in their safetensors files until they are asked for, whole or a few of their values."""

from __future__ import annotations

import json
import mmap
import struct
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from efface.errors import EffaceError, system_reason

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
"""What safetensors calls a type -> the type; tensors of others are not listed."""
_CHUNK = 1 << 20
"""Values that are read at a time."""
_BITS = {1: np.dtype(np.uint8), 2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file; nothing of it is in memory."""

    path: Path
    """The file."""
    dtype: torch.dtype
    """Its type there."""
    shape: tuple[int, ...]
    start: int
    """Its first byte, counted from the file's."""

    @property
    def size(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The whole tensor, in memory of its own, in its own type or another one.

        Raises:
            EffaceError: the file cannot be read any more.
        """
        values = torch.empty(self.size, dtype=dtype or self.dtype)
        part = torch.empty(min(self.size, _CHUNK), dtype=self.dtype)  # no second copy of a large tensor
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                for chunk in values.split(_CHUNK):
                    self._fill(part[: len(chunk)], file)
                    chunk.copy_(part[: len(chunk)])
        except OSError as error:
            raise EffaceError(f"{self.path} could not be read ({system_reason(error)}).") from error
        return values.reshape(self.shape)

    def _fill(self, part: Tensor, file: RawIOBase) -> None:
        """Read the next values of a file."""
        rest = part.view(torch.uint8).numpy().data
        while len(rest):
            count = file.readinto(rest)
            if not count:
                raise EffaceError(f"{self.path} became shorter while it was read: fetch another copy.")
            rest = rest[count:]

    def sample(self, step: int, count: int) -> Tensor:
        """Every `step`-th value of the flattened tensor, at most `count` of them.

        Only this tensor's part of the file is mapped, and not longer than it takes: what a mapping has touched counts as
        the process's own memory.
        """
        size = torch.empty((), dtype=self.dtype).element_size()
        before = self.start % mmap.ALLOCATIONGRANULARITY
        if not self.size:
            return torch.empty(0, dtype=self.dtype)
        try:
            with (
                self.path.open("rb") as file,
                mmap.mmap(
                    file.fileno(), before + self.size * size, offset=self.start - before, access=mmap.ACCESS_READ
                ) as view,
            ):
                bits = np.frombuffer(view, dtype=_BITS[size], count=self.size, offset=before)
                values = bits[::step][:count].copy()
                del bits  # or the mapping could not be closed
        except (OSError, ValueError) as error:
            raise EffaceError(f"{self.path} could not be read ({error}).") from error
        return torch.from_numpy(values).view(self.dtype)


def stored_in(*paths: Path) -> dict[str, Stored]:
    """Name -> tensor of safetensors files, of which only the headers are read.

    Raises:
        EffaceError: a file is missing, damaged, or no safetensors file.
    """
    found: dict[str, Stored] = {}
    for path in paths:
        try:
            with safe_open(path, framework="np"):  # refuses whatever does not fit together
                pass
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
        except OSError as error:
            raise EffaceError(f"{path} could not be read ({system_reason(error)}); expected weights.") from error
        except SafetensorError as error:
            raise EffaceError(f"{path} is damaged or no safetensors file ({error}): fetch another copy.") from error
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in DTYPES:
                start = 8 + length + entry["data_offsets"][0]
                found[name] = Stored(path, DTYPES[entry["dtype"]], tuple(entry["shape"]), start)
    return found
