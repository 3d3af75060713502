"""Tensor files that are data and nothing else: safetensors with a checksum over every byte, read with a bounded appetite.

Nothing is unpickled; a header is checked against the file's length before anything of that size is read; tensors of odd
types, with odd names or with values that are not finite are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import struct
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize

from efface.errors import EffaceError, system_reason

if TYPE_CHECKING:  # what a file says of itself is read without torch, which takes longer to import
    from torch import Tensor

HEADER_LIMIT = 16_000_000
"""Largest header in bytes; those of erasures have a few thousand."""
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2}
"""Bytes of a value of each type that is read."""
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How zip archives and pickles begin."""
_NAME = re.compile(r"[\w.|\-]{1,400}", re.ASCII)
_BLANK = "0" * 64
_KEY = b'"checksum":"'


class Content(NamedTuple):
    """A tensor file after every check."""

    metadata: dict[str, str]
    """Without the checksum."""
    tensors: dict[str, Tensor]
    has_checksum: bool
    """Whether the file has a checksum, which then is right."""


class Raw(NamedTuple):
    """The bytes of a tensor file whose header fits its length."""

    data: bytes
    header: dict[str, Any]

    @property
    def metadata(self) -> dict[str, Any]:
        """The header's free part."""
        metadata = self.header.get("__metadata__", {})
        return metadata if isinstance(metadata, dict) else {}


def serialize(tensors: dict[str, Tensor], metadata: dict[str, str], *, beside: bytes = b"") -> bytes:
    """The bytes of a safetensors file whose checksum covers them all, and what lies `beside` it in another file."""
    from safetensors.torch import save

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(ready, metadata | {"checksum": _BLANK})
    at = _checksum_at(data)
    digest = hashlib.sha256(data + beside).hexdigest().encode()
    return data[:at] + digest + data[at + len(digest) :]


def read_raw(path: Path, what: str) -> Raw:
    """A file's bytes and header.

    Args:
        path: of the file.
        what: is expected there, in words.

    Raises:
        EffaceError: it is missing, no regular file, a pickle, truncated, longer than its header says, or not safetensors.
    """
    try:
        status = path.stat()
        actual = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise EffaceError(f"{path} could not be read (it is no regular file); expected {what}.")
        with path.open("rb") as file:
            start = file.read(8)
            # A header of 640, 896, ... bytes begins like a pickle does; only a header goes on with a brace.
            if start[:2] in PICKLES and not (file.read(1) == b"{" and start[4:] == bytes(4)):
                raise EffaceError(
                    f"{path} is a pickle or zip archive, which can run code when opened: expected {what} in .safetensors."
                )
            file.seek(len(start))
            size = _header_size(path, start, actual)
            text = file.read(size)
            header = _header(path, text)
            ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            expected = 8 + size + max(ends, default=0)
            if expected > actual:
                raise EffaceError(
                    f"{path} is truncated: {actual} bytes where {expected} were expected; fetch another copy."
                )
            if expected < actual:
                raise EffaceError(
                    f"{path} was altered or damaged: {actual} bytes where {expected} were expected; fetch another copy."
                )
            return Raw(start + text + file.read(expected - 8 - size), header)
    except OSError as error:
        raise EffaceError(f"{path} could not be read ({system_reason(error)}); expected {what}.") from error


def open_tensors(path: Path, what: str, *, beside: bytes = b"", raw: Raw | None = None) -> Content:
    """A tensor file after every check; a checksum is verified where there is one.

    Raises:
        EffaceError: what `read_raw` refuses, a wrong checksum, or tensors with values that are not finite.
    """
    import torch
    from safetensors.torch import load

    raw = raw or read_raw(path, what)
    metadata = {k: v for k, v in raw.metadata.items() if k != "checksum"}
    has_checksum = verify(path, raw, beside=beside)
    try:
        tensors = dict(sorted(load(raw.data).items()))  # in an order that is the same every time
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise EffaceError(f"{path} is damaged ({str(error)[:200]}): fetch another copy.") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise EffaceError(f"{path} holds values that are not finite (in {name}): make it again.")
    return Content(metadata, tensors, has_checksum)


def verify(path: Path, raw: Raw, *, beside: bytes = b"") -> bool:
    """Whether a file has a checksum, which then is right; raises EffaceError where it is wrong."""
    if "checksum" in raw.metadata:
        _verify(path, raw.data, beside)
    return "checksum" in raw.metadata


class Values(NamedTuple):
    """A tensor as it stands in a file."""

    dtype: str
    """What safetensors calls its type."""
    shape: tuple[int, ...]
    data: bytes

    @property
    def ndim(self) -> int:
        """How many sizes it has."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether it holds no whole numbers."""
        return not self.dtype.startswith("I")

    def is_finite(self) -> bool:
        """Whether all of its values are finite."""
        if self.dtype == "BF16":
            return bool(((np.frombuffer(self.data, dtype="<u2") & 0x7F80) != 0x7F80).all())
        if not self.is_floating_point():
            return True
        return bool(np.isfinite(np.frombuffer(self.data, dtype=f"<f{SIZES[self.dtype]}")).all())


def values_in(path: Path, raw: Raw) -> dict[str, Values]:
    """The tensors of a file, without torch.

    Raises:
        EffaceError: they do not fit together, or hold values that are not finite.
    """
    try:
        entries = deserialize(raw.data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise EffaceError(f"{path} is damaged ({str(error)[:200]}): fetch another copy.") from error
    found = {
        name: Values(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
        for name, entry in sorted(entries, key=lambda entry: entry[0])
    }
    for name, values in found.items():
        if not values.is_finite():
            raise EffaceError(f"{path} holds values that are not finite (in {name}): make it again.")
    return found


def read_json(text: str | bytes) -> Any:
    """JSON from anywhere; ValueError for all that is wrong with it, nesting without end included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _header_size(path: Path, start: bytes, length: int) -> int:
    if len(start) < 8:
        raise EffaceError(f"{path} is truncated: {length} bytes where at least 8 were expected; fetch another copy.")
    size = struct.unpack("<Q", start)[0]
    if size > HEADER_LIMIT:
        raise _damaged(path)
    if 8 + size > length:
        raise EffaceError(
            f"{path} is truncated or damaged: {length} bytes where its header alone needs {8 + size}; fetch another copy."
        )
    return size


def _header(path: Path, text: bytes) -> dict[str, Any]:
    """The header, every entry of the form that safetensors demands."""
    try:
        header = read_json(text)
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(header, dict):
        raise _damaged(path)
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                raise _damaged(path)
        elif not _is_tensor(entry):
            raise _damaged(path)
        elif not _NAME.fullmatch(name):
            raise EffaceError(
                f"{path} holds a tensor called {name[:60]!r}; expected letters, digits, '.', '_', '-' and '|': "
                "it was not made by a tool that means well."
            )
    return header


def _is_tensor(entry: Any) -> bool:
    """Whether a header's entry holds a known type, a shape, and as many bytes as both need."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] not in SIZES:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 8:
        return False
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, *offsets)):
        return False
    return prod(shape) * SIZES[entry["dtype"]] == offsets[1] - offsets[0]


def _damaged(path: Path) -> EffaceError:
    return EffaceError(f"{path} is damaged or not a safetensors file: make it again or fetch another copy.")


def _checksum_at(data: bytes) -> int:
    """Where the 64 hexadecimal digits of the checksum lie; −1 when there are none."""
    at = data.find(_KEY, 8, 8 + struct.unpack("<Q", data[:8])[0])
    return at + len(_KEY) if at >= 0 else -1


def _verify(path: Path, data: bytes, beside: bytes) -> None:
    """Compare the checksum with the sha256 of everything, its own digits taken as zeros."""
    at = _checksum_at(data)
    checksum = data[at : at + 64].decode("ascii", "replace") if at >= 0 else "none"
    view = memoryview(data)
    digest = hashlib.sha256(view[: max(at, 0)])
    digest.update(_BLANK.encode())
    digest.update(view[max(at, 0) + 64 :])
    digest.update(beside)
    if checksum != digest.hexdigest():
        raise EffaceError(
            f"{path} was altered or damaged: its checksum says {checksum[:12]}…, its content {digest.hexdigest()[:12]}…; "
            "fetch another copy."
        )
